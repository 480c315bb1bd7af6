"""Multi-task learning: who is drawn how often, whose loss counts how much, who helps whom."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.learning import loop
from tasks.learning.applications.ner import Ner
from tasks.learning.applications.text_classification import TextClassification
from tasks.learning.batches import Mixture, Stream, Streams, collate
from tasks.learning.learner import Learner, new_learner
from tasks.learning.paradigms.multi_task import PROBE, MultiTask, Probing, affinities
from tests.tiny import reviews, score

NER = Ner(kind="ner", labels=("thing",))
SENTENCES = [{"tokens": "the phone was bad", "tags": "O B-thing O O"}] * 8


@pytest.fixture
def learner(backbone: Path, classification: TextClassification) -> Learner:
    torch.manual_seed(0)
    return new_learner(backbone, {"reviews": classification, "news": NER})


def multi_task(**options: Any) -> MultiTask:
    return MultiTask(kind="multi_task", **options)


def streams(learner: Learner, target: int = 16, source: int = 64) -> Streams:
    def stream(task: str, rows: Any) -> Stream:
        examples = learner.tasks[task].encode(rows, learner.tokenizer)
        return Stream(task, examples, pad_id=0, budget=64, seed=1)

    sentences = stream("news", SENTENCES * (source // 8))
    return Streams(stream("reviews", reviews(target)), "products", {"news": sentences})


def tasks_of(mixture: Mixture, steps: int) -> Counter[str]:
    return Counter(mixture.draw(step)[0] for step in range(steps))


def plan(paradigm: MultiTask, of: Streams) -> Probing:
    found = paradigm.plan(of)
    assert isinstance(found, Probing)
    return found


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ({}, 64 / 80),
        ({"temperature": 2.0}, 8 / 12),
        ({"shares": {"products": 3.0, "news": 1.0}}, 1 / 4),
    ],
)
def test_shares(learner: Learner, options: dict[str, Any], share: float) -> None:
    """Domains are drawn in proportion to rows, their roots, or as told; exactly, not by chance."""
    mixture = plan(multi_task(**options), streams(learner)).mixture
    for steps in (1, 7, 40, 200):
        assert abs(tasks_of(mixture, steps)["news"] - share * steps) <= 1


def test_an_epoch_is_the_targets(learner: Learner) -> None:
    """Training ends when the target's rows have been seen so many times."""
    given = streams(learner)
    found = plan(multi_task(), given)
    for epochs in (1, 2, 3):
        steps = found.steps(epochs)
        seen = Counter(found.draw(step)["train"][0] for step in range(steps))
        assert seen["reviews"] == given.target.steps(epochs)
        assert found.epoch(steps - 1) == epochs - 1
        assert found.epoch(steps) == epochs


def test_draws_are_pure_in_the_step(learner: Learner) -> None:
    """A resumed training draws what it would have drawn."""
    forward, late = plan(multi_task(), streams(learner)), plan(multi_task(), streams(learner))
    expected = [forward.draw(step)["train"] for step in range(12)]
    task, batch = late.draw(11)["train"]
    assert task == expected[11][0]
    assert torch.equal(batch["input_ids"], expected[11][1]["input_ids"])


def test_only_the_drawn_tasks_head_learns(learner: Learner) -> None:
    """∇ of one task's loss reaches the backbone and its own head."""
    given = streams(learner)
    multi_task().gradients(learner, {"train": given.target.draw(0)}, torch.Tensor.backward)
    assert all(p.grad is None for p in learner.heads["news"].parameters())
    assert all(p.grad is not None for p in learner.heads["reviews"].parameters())
    assert any(p.grad is not None for p in learner.backbone.parameters())


def test_fixed_weights_scale_the_gradient(learner: Learner) -> None:
    """A weight of a half halves the gradient."""
    learner.eval()
    draw = {"train": streams(learner).target.draw(0)}
    multi_task().gradients(learner, draw, torch.Tensor.backward)
    whole = learner.heads["reviews"].weight.grad.clone()
    learner.zero_grad()
    multi_task(weights={"reviews": 0.5}).gradients(learner, draw, torch.Tensor.backward)
    torch.testing.assert_close(learner.heads["reviews"].weight.grad, whole / 2)


def test_uncertainty(learner: Learner) -> None:
    """∂/∂s of exp(-s) L + s/2 is 1/2 - exp(-s) L; at s = log 2L it vanishes (Kendall 2018)."""
    learner.eval()
    paradigm = multi_task(weights="uncertainty")
    paradigm.prepare(learner)
    variance = learner.extras["log_variances"]["task_reviews"]
    draw = {"train": streams(learner).target.draw(0)}
    loss = paradigm.gradients(learner, draw, torch.Tensor.backward)["loss"]
    assert float(variance.grad) == pytest.approx(0.5 - loss, abs=1e-6)
    with torch.no_grad():
        variance.fill_(math.log(2 * loss))
    variance.grad = None
    paradigm.gradients(learner, draw, torch.Tensor.backward)
    assert float(variance.grad) == pytest.approx(0.0, abs=1e-6)
    assert learner.extras["log_variances"]["task_news"].grad is None


def test_uncertainty_learns_its_weights(learner: Learner, tmp_path: Path) -> None:
    """Where nothing else moves, 300 steps at a backbone's rate take each weight to 1/2L."""
    paradigm = multi_task(weights="uncertainty")
    given = streams(learner, source=16)
    learner.requires_grad_(False)
    schedule = loop.Schedule(steps=300, learning_rate=1e-5)
    loop.train(learner, paradigm, paradigm.plan(given), schedule, tmp_path)
    for task, stream in {"reviews": given.target, "news": given.sources["news"]}.items():
        assert isinstance(stream, Stream)
        whole = collate(stream.examples, 0)
        loss = float(learner(task, whole).loss.detach())
        variance = learner.extras["log_variances"][f"task_{task}"]
        assert float((-variance.detach()).exp()) == pytest.approx(1 / (2 * loss), rel=0.1)


def test_affinity_by_hand(learner: Learner) -> None:
    """1 - loss after / loss before a step of known length; the weights are where they were."""
    learner.train()
    batch = collate(NER.encode(SENTENCES[:2], learner.tokenizer), 0)
    task, own = streams(learner).target.draw(0)
    learner(task, own).loss.backward()
    before = {n: p.detach().clone() for n, p in learner.named_parameters()}
    found = affinities(learner, "reviews", {"news": batch})
    assert list(found) == ["affinity/reviews/news"]
    assert all(torch.equal(p, before[n]) for n, p in learner.named_parameters())
    assert learner.training

    learner.eval()
    with torch.no_grad():
        first = float(learner("news", batch).loss)
        moved = [p for p in learner.backbone.parameters() if p.grad is not None]
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in moved))
        for parameter in moved:
            parameter -= PROBE * parameter.grad / norm
        second = float(learner("news", batch).loss)
    assert found["affinity/reviews/news"] == pytest.approx(1 - second / first, abs=1e-6)


def test_a_task_helps_itself(learner: Learner) -> None:
    """The sign: a step down a task's own gradient lowers its loss, so its affinity is positive."""
    learner.eval()
    task, batch = streams(learner).target.draw(0)
    learner(task, batch).loss.backward()
    assert affinities(learner, task, {task: batch})[f"affinity/{task}/{task}"] > 0


def test_probes_now_and_then(learner: Learner) -> None:
    """Every so many steps the other task is drawn as well; in between it is not."""
    found = plan(multi_task(probe_every=5), streams(learner))
    for step in range(12):
        assert (len(found.draw(step)) == 2) == (step % 5 == 4)


def test_trains_both(learner: Learner, tmp_path: Path) -> None:
    """Both tasks are learned at once, and the log says which helps which."""
    paradigm = multi_task(probe_every=10)
    given = plan(paradigm, streams(learner, target=32, source=32))
    schedule = loop.Schedule(steps=120, learning_rate=3e-3, precision="float32")
    loop.train(learner, paradigm, given, schedule, tmp_path)
    assert score(learner, "reviews", reviews(40, seed=9))["accuracy"] > 0.9
    assert score(learner, "news", SENTENCES)["entity_f1"] == 1.0
    log = (tmp_path / loop.METRICS).read_text()
    assert "affinity/news/reviews" in log
    assert "loss_news" in log


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shares": {"products": 1.0, "new": 1.0}}, ["'new'", "lacks 'news'"]),
        ({"weights": {"ner": 1.0}}, ["'ner'", "reviews, news"]),
        ({}, []),
        ({"weights": "uncertainty"}, []),
    ],
)
def test_complaints(options: dict[str, Any], says: list[str]) -> None:
    """Names that are nobody's are refused before anything is loaded."""
    found = " ".join(multi_task(**options).complaints(("news", "products"), ("reviews", "news")))
    assert bool(found) == bool(says)
    assert all(part in found for part in says)


def test_alone_is_fine_tuning() -> None:
    """The baseline sees no source, and freezes as much."""
    alone = multi_task(freeze=1).alone
    assert (alone.kind, alone.freeze) == ("fine_tuning", 1)
