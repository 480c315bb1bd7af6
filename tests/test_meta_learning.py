"""Meta-learning: each method's gradient against a reference that goes step by step."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tasks.learning import loop, prediction
from tasks.learning.applications.text_classification import TextClassification
from tasks.learning.batches import Stream, Streams
from tasks.learning.contracts import Batch, Draw, Unfit
from tasks.learning.episodes import Episodes, draw_rows
from tasks.learning.learner import Learner, new_learner
from tasks.learning.paradigms.fine_tuning import FineTuning
from tasks.learning.paradigms.meta_learning import MetaLearning
from tasks.learning.prototypes import means, set_head
from tests.tiny import reviews, score

RATE = 0.3


@pytest.fixture
def learner(backbone: Path, classification: TextClassification) -> Learner:
    torch.manual_seed(0)
    found = new_learner(backbone, {"reviews": classification})
    found.backbone.set_dropout(0.0)
    return found


@pytest.fixture
def precise(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> Learner:
    """In float64 throughout: applications take their losses in float32."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    return learner.double()


def meta(**options: Any) -> MetaLearning:
    settings = {"shots": 2, "queries": 2, "inner_learning_rate": RATE, "episodes": 2, **options}
    return MetaLearning(kind="meta_learning", **settings)


def stream(learner: Learner, seed: int, count: int = 40) -> Stream:
    rows = reviews(count, seed)
    examples = learner.tasks["reviews"].encode(rows, learner.tokenizer)
    classes = [{row["label"]} for row in rows]
    return Stream("reviews", examples, pad_id=0, budget=128, seed=1, classes=classes)


def streams(learner: Learner) -> Streams:
    return Streams(None, "toys", {"books": stream(learner, 1), "films": stream(learner, 2)})


def drawn(paradigm: MetaLearning, learner: Learner, step: int = 0) -> Draw:
    paradigm.prepare(learner)
    return paradigm.plan(streams(learner)).draw(step)


def gradient(paradigm: MetaLearning, learner: Learner, draw: Draw) -> dict[str, Tensor]:
    learner.zero_grad()
    paradigm.gradients(learner, draw, Tensor.backward)
    return {n: p.grad.clone() for n, p in learner.named_parameters() if p.grad is not None}


def stepped(learner: Learner, batches: list[Batch]) -> Learner:
    """A copy after torch's own SGD, a step a batch."""
    phi = copy.deepcopy(learner)
    optimizer = torch.optim.SGD(phi.parameters(), lr=RATE)
    for batch in batches:
        optimizer.zero_grad()
        phi("reviews", batch).loss.backward()
        optimizer.step()
    return phi


def episodes(draw: Draw) -> list[tuple[Batch, Batch]]:
    return [(draw[f"support {i}"][1], draw[f"query {i}"][1]) for i in range(len(draw) // 2)]


def test_maml_against_finite_differences(precise: Learner) -> None:
    """Along a random direction, along the head, and at a single weight of the backbone."""
    learner = precise
    paradigm = meta(method="maml", inner_steps=2)
    draw = drawn(paradigm, learner)
    found = gradient(paradigm, learner, draw)

    def judged(moved: dict[str, Tensor]) -> float:
        there = copy.deepcopy(learner)
        with torch.no_grad():
            for name, parameter in there.named_parameters():
                if name in moved:
                    parameter.add_(moved[name])
        losses = [stepped(there, [s, s])("reviews", q).loss for s, q in episodes(draw)]
        return float(torch.stack(losses).detach().mean())

    generator = torch.Generator().manual_seed(5)
    everywhere = {
        n: torch.randn(g.shape, generator=generator, dtype=g.dtype) for n, g in found.items()
    }
    head = {"heads.task_reviews.weight": torch.eye(2, 32, dtype=torch.float64)}
    query = next(n for n in found if n.endswith("attention.self.query.weight"))
    one = torch.zeros_like(found[query])
    one[3, 4] = 1
    for direction in (everywhere, head, {query: one}):
        tiny = {n: 1e-5 * d for n, d in direction.items()}
        difference = judged(tiny) - judged({n: -d for n, d in tiny.items()})
        expected = sum(float((found[n] * d).sum()) for n, d in direction.items())
        assert difference / 2e-5 == pytest.approx(expected, rel=1e-5, abs=1e-9)
        assert abs(expected) > 1e-6


def test_fomaml_is_the_gradient_at_the_adapted_weights(precise: Learner) -> None:
    """By hand, and not what MAML gives."""
    learner = precise
    paradigm = meta(method="fomaml", inner_steps=2)
    draw = drawn(paradigm, learner)
    found = gradient(paradigm, learner, draw)
    expected: dict[str, Tensor] = {}
    for support, query in episodes(draw):
        phi = stepped(learner, [support, support])
        phi.zero_grad()
        phi("reviews", query).loss.backward()
        for name, parameter in phi.named_parameters():
            if parameter.grad is not None:
                expected[name] = expected.get(name, 0) + parameter.grad / 2
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    through = gradient(meta(method="maml", inner_steps=2), learner, draw)
    largest = max(float((through[n] - found[n]).abs().max()) for n in found)
    assert largest > 1e-3, "MAML's gradient is FOMAML's"


def test_reptile_is_the_way_to_the_adapted_weights(precise: Learner) -> None:
    """θ − φ, φ by plain descent over support and query in turn; θ itself stays."""
    learner = precise
    paradigm = meta(method="reptile", inner_steps=3)
    draw = drawn(paradigm, learner)
    before = {n: p.detach().clone() for n, p in learner.named_parameters()}
    found = gradient(paradigm, learner, draw)
    ends = [dict(stepped(learner, [s, q, s]).named_parameters()) for s, q in episodes(draw)]
    for name, value in found.items():
        expected = before[name] - (ends[0][name] + ends[1][name]) / 2
        torch.testing.assert_close(value, expected.detach())
    assert all(p.equal(before[n]) for n, p in learner.named_parameters())
    assert any(float(value.abs().max()) > 1e-3 for value in found.values())


def test_prototypical_by_hand(learner: Learner) -> None:
    """Cross-entropy of −‖f − μ‖², μ the mean of the support of a label."""
    paradigm = meta(method="prototypical", episodes=1)
    draw = drawn(paradigm, learner)
    ((support, query),) = episodes(draw)
    values = paradigm.gradients(learner, draw, Tensor.backward)
    with torch.no_grad():
        f, asked = learner.represent("reviews", support), learner.represent("reviews", query)
    centres = [f[support["labels"] == label].mean(0) for label in (0, 1)]
    logits = torch.stack([-(asked - c).square().sum(-1) for c in centres], -1)
    expected = functional.cross_entropy(logits, query["labels"])
    assert values["loss"] == pytest.approx(float(expected), rel=1e-4)
    assert learner.heads["reviews"].weight.grad is None
    assert learner.backbone.layers()[0].attention.self.query.weight.grad.abs().max() > 0


@pytest.mark.parametrize("method", ["maml", "fomaml", "reptile", "prototypical"])
def test_frozen_layers_get_no_gradient(backbone: Path, learner: Learner, method: str) -> None:
    """The frozen part is no part of θ."""
    paradigm = meta(method=method, freeze=1)
    learner = new_learner(backbone, learner.tasks)
    found = gradient(paradigm, learner, drawn(paradigm, learner))
    assert {name.split(".layer.")[1][0] for name in found if "backbone" in name} == {"1"}


@pytest.mark.parametrize("options", [{"method": "prototypical"}, {"method": "maml", "ways": 2}])
def test_a_frozen_backbone_learns_nothing(learner: Learner, options: dict[str, Any]) -> None:
    """Prototypes have no head, and one that starts at zero keeps nothing: said at once."""
    with pytest.raises(Unfit, match="leaves nothing"):
        meta(freeze=2, **options).prepare(learner)


@pytest.mark.parametrize("method", ["maml", "fomaml", "reptile"])
def test_lora_alone_is_adapted(learner: Learner, method: str) -> None:
    """With LoRA, θ is the adapters and the head."""
    paradigm = meta(method=method, lora={"rank": 2}, inner_steps=2)
    found = gradient(paradigm, learner, drawn(paradigm, learner))
    assert {n for n in found if "lora" not in n} == {
        "heads.task_reviews.weight",
        "heads.task_reviews.bias",
    }
    assert any("lora_B" in n and float(g.abs().max()) > 0 for n, g in found.items())


@pytest.mark.parametrize("method", ["maml", "fomaml", "reptile"])
def test_drawn_labels_start_at_a_zero_head(learner: Learner, method: str) -> None:
    """With `ways` the head is the episode's own: it is not learned over episodes."""
    paradigm = meta(method=method, ways=2, inner_steps=2)
    found = gradient(paradigm, learner, drawn(paradigm, learner))
    assert not [name for name in found if name.startswith("heads")]
    assert any(float(g.abs().max()) > 0 for g in found.values())


def test_rows_of_an_episode() -> None:
    """So many of each label, nothing in both sets; with `ways`, rows of the drawn labels alone."""
    classes = [{"abcd"[i % 4]} for i in range(80)]
    support, query = draw_rows(classes, 3, 5, None, np.random.default_rng(0))
    assert Counter(c for i in support for c in classes[i]) == dict.fromkeys("abcd", 3)
    assert Counter(c for i in query for c in classes[i]) == dict.fromkeys("abcd", 5)
    assert not set(support) & set(query)
    seen = set()
    for seed in range(20):
        support, query = draw_rows(classes, 1, 1, 2, np.random.default_rng(seed))
        labels = set().union(*(classes[i] for i in support))
        assert len(labels) == 2 == len(support)
        assert labels == set().union(*(classes[i] for i in query))
        seen |= labels
    assert seen == set("abcd")


def test_rows_with_several_labels_or_none() -> None:
    """A sentence counts for every type in it; one without any is never drawn."""
    classes = [{"x", "y"}, {"x"}, set(), {"y"}, {"x", "y"}, set(), {"y"}, {"x"}]
    for seed in range(10):
        support, query = draw_rows(classes, 2, 1, None, np.random.default_rng(seed))
        counts = Counter(c for i in support for c in classes[i])
        assert min(counts["x"], counts["y"]) >= 2
        assert not {2, 5} & {*support, *query}


def test_labels_without_rows_enough_are_drawn_again() -> None:
    """With `ways`: x and y hardly ever stand alone, so every episode is about z and one of them."""
    classes = [{"x", "y"}] * 30 + [{"x"}] * 3 + [{"y"}] * 3 + [{"z"}] * 30
    for seed in range(30):
        support, query = draw_rows(classes, 1, 1, 2, np.random.default_rng(seed))
        for rows in (support, query):
            assert len(set[str]().union(*(classes[i] for i in rows))) == 2
        assert not set(support) & set(query)


def test_episodes_that_cannot_be_are_refused_before_training(learner: Learner) -> None:
    """No sentence is of one label alone; or one episode in many would lack rows: said at once."""
    given = stream(learner, 1)
    given.classes = [{"x", "y"}] * 40
    with pytest.raises(Unfit, match=r"films: an episode takes 2 \+ 2 rows of each of 1 labels"):
        Episodes({"films": given}, steps=9, at_once=1, ways=1, shots=2, queries=2)
    # Whether a row with both labels is drawn first decides whether enough are left for the queries.
    given.classes = [{"x", "y"}] * 4 + [{"x"}] * 2 + [{"y"}] * 2 + [set()] * 32
    with pytest.raises(Unfit, match="films"):
        Episodes({"films": given}, steps=400, at_once=1, ways=None, shots=4, queries=3)


def test_the_adaptations_head_starts_as_the_episodes_did(learner: Learner) -> None:
    """At zero with `ways`; a head with a hidden layer keeps that, or it could not learn."""
    paradigm = meta(method="fomaml", ways=2)
    assert paradigm.adaptation.head == "zero"
    assert meta(method="prototypical", ways=2).adaptation.head == "prototypes"
    hidden = TextClassification(
        kind="text_classification", labels=("negative", "positive"), hidden=8
    )
    learner.heads["reviews"] = hidden.head(learner.backbone.width)
    first, _, last = learner.heads["reviews"]
    before = first.weight.detach().clone()
    paradigm.adaptation.initialise(learner, Streams(stream(learner, 3), "toys"))
    assert not last.weight.any()
    assert not last.bias.any()
    assert first.weight.equal(before)
    found = gradient(paradigm, learner, drawn(paradigm, learner))
    assert {n for n in found if n.startswith("heads")} == {
        "heads.task_reviews.0.weight",
        "heads.task_reviews.0.bias",
    }


@pytest.mark.parametrize("method", ["maml", "fomaml", "reptile"])
def test_inner_steps_under_autocast(learner: Learner, method: str) -> None:
    """In bfloat16 each inner step computes with its own weights, not with a cast of older ones."""
    paradigm = meta(method=method, inner_steps=3)
    draw = drawn(paradigm, learner)
    exact = gradient(paradigm, learner, draw)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradient(paradigm, learner, draw)
    flat = [torch.cat([g[n].flatten() for n in sorted(exact)]) for g in (exact, found)]
    assert float(functional.cosine_similarity(*flat, dim=0)) > 0.9


def test_episodes_follow_from_seed_and_step(learner: Learner) -> None:
    """The same step draws the same rows, another step others; every source has its turn."""
    given = {f"films {i}": stream(learner, i) for i in (1, 2, 3)}
    plan = Episodes(given, steps=9, at_once=3, ways=None, shots=2, queries=2)
    once, again, other = plan.draw(4), plan.draw(4), plan.draw(5)
    assert plan.steps(1) == plan.steps(7) == 9
    assert list(once) == [f"{role} {i}" for i in range(3) for role in ("support", "query")]
    for role, (_, batch) in once.items():
        assert batch["input_ids"].equal(again[role][1]["input_ids"])
    same = [
        once[role][1]["input_ids"].shape == other[role][1]["input_ids"].shape
        and once[role][1]["input_ids"].equal(other[role][1]["input_ids"])
        for role in once
    ]
    assert not all(same)


def test_means() -> None:
    """Of the labels that occur."""
    values = torch.tensor([[0.0, 2.0], [4.0, 4.0], [2.0, 0.0]])
    found, present = means(values, torch.tensor([3, 1, 3]))
    assert present.tolist() == [1, 3]
    assert found.tolist() == [[4.0, 4.0], [1.0, 1.0]]


def test_a_head_of_prototypes(learner: Learner) -> None:
    """It answers with the nearest mean, whatever the lengths of the means."""
    rows = reviews(40, 8)
    task = learner.tasks["reviews"]
    set_head(learner, stream(learner, 8))
    examples = task.encode(rows, learner.tokenizer, supervised=False)
    found = dict(prediction.represent(learner, "reviews", examples))
    features = np.stack([found[i] for i in range(len(rows))])
    labels = np.array([task.labels.index(row["label"]) for row in rows])
    centres = np.stack([features[labels == c].mean(0) for c in (0, 1)])
    nearest = np.square(features[:, None] - centres).sum(-1).argmin(-1)
    answers = prediction.predict(learner, "reviews", rows)
    assert [p["label"] for p in answers] == [task.labels[i] for i in nearest]
    assert all(p.requires_grad for p in learner.heads["reviews"].parameters())


def test_a_label_without_a_row_is_never_the_answer(learner: Learner) -> None:
    """Not even for a text far from all prototypes."""
    rows = [row for row in reviews(40, 8) if row["label"] == "positive"]
    examples = learner.tasks["reviews"].encode(rows, learner.tokenizer)
    set_head(learner, Stream("reviews", examples, pad_id=0, budget=64, seed=0))
    answers = prediction.predict(learner, "reviews", reviews(40, 9))
    assert {p["label"] for p in answers} == {"positive"}


def test_prototypes_need_a_linear_head(learner: Learner) -> None:
    """Anything else is refused."""
    learner.heads["reviews"] = torch.nn.Sequential(torch.nn.Linear(32, 2))
    with pytest.raises(Unfit, match="no linear layer"):
        set_head(learner, stream(learner, 8))


@pytest.mark.parametrize("method", ["maml", "fomaml", "reptile", "prototypical"])
def test_learns_where_to_start(learner: Learner, method: str, tmp_path: Path) -> None:
    """Ten labels and few steps go further from a meta-learned start than from the backbone."""
    backbone = copy.deepcopy(learner)
    paradigm = meta(method=method, steps=80, learning_rate=2e-3, inner_learning_rate=0.05)
    paradigm = paradigm.model_copy(update={"episodes": 4, "shots": 5, "queries": 5})
    (tmp_path / "meta").mkdir()
    schedule = loop.Schedule(steps=80, learning_rate=1.0, precision="float32")
    loop.train(learner, paradigm, paradigm.plan(streams(learner)), schedule, tmp_path / "meta")

    def adapted(start: Learner, name: str) -> float:
        (tmp_path / name).mkdir()
        few = Streams(stream(start, 11, 10), "toys")
        adaptation = paradigm.adaptation
        adaptation.initialise(start, few)
        short = loop.Schedule(steps=4, learning_rate=1e-3, precision="float32")
        loop.train(start, adaptation, adaptation.plan(few), short, tmp_path / name)
        return score(start, "reviews", reviews(200, 77))["accuracy"]

    alone, transferred = adapted(backbone, "alone"), adapted(learner, "transferred")
    assert transferred > alone + 0.1


def test_configuration() -> None:
    """The adaptation fine-tunes the same part; Reptile with one inner step is refused."""
    assert meta(freeze=1).adaptation == FineTuning(kind="fine_tuning", freeze=1)
    assert meta(method="prototypical").alone.head == "prototypes"
    assert meta(shots=3, queries=4).rows_per_label == 7
    with pytest.raises(ValueError, match="plain training"):
        meta(method="reptile", inner_steps=1)
    labels = {"books": 2, "toys": 2}
    assert [*meta().complaints(labels, ["t"])] != []
    assert [*meta(ways=2).complaints(labels, ["t"])] != [], "always the same two"
    assert [*meta(ways=2).complaints({**labels, "books": 3}, ["t"])] == []
    assert [*meta().complaints({"toys": 2}, ["t"])] != [], "no source has labels"
    assert "has 2 labels" in next(meta(ways=3).complaints(labels, ["t"]))
    assert [*meta().complaints({"films": 2, **labels}, ["t"])] == []
