"""Domain adaptation: the reversal's sign and scale, distances by hand, and domains made alike."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tasks.learning import loop, prediction
from tasks.learning.alignment import Discriminator, Distance, Reversal, coral, mmd, proxy_a_distance
from tasks.learning.applications.ner import Ner
from tasks.learning.applications.text_classification import TextClassification
from tasks.learning.batches import Stream, Streams, collate
from tasks.learning.information import information, log_probabilities, mutual_information
from tasks.learning.learner import Learner, new_learner
from tasks.learning.paradigms.domain_adaptation import DomainAdaptation
from tests.tiny import reviews, score


@pytest.fixture
def learner(backbone: Path, classification: TextClassification) -> Learner:
    torch.manual_seed(0)
    found = new_learner(backbone, {"reviews": classification})
    found.backbone.set_dropout(0.0)
    return found


def adaptation(**options: Any) -> DomainAdaptation:
    return DomainAdaptation(kind="domain_adaptation", **options)


def shouted(count: int, seed: int) -> list[dict[str, str]]:
    """Reviews of another domain: the same opinions, and exclamation marks all over."""
    return [{**row, "text": f"! ! ! {row['text']} ! ! !"} for row in reviews(count, seed)]


def stream(learner: Learner, rows: Any, *, supervised: bool = True, budget: int = 128) -> Stream:
    examples = learner.tasks["reviews"].encode(rows, learner.tokenizer, supervised=supervised)
    return Stream("reviews", examples, pad_id=0, budget=budget, seed=1)


def streams(learner: Learner, labelled: int = 0) -> Streams:
    return Streams(
        stream(learner, shouted(labelled, 5)) if labelled else None,
        "products",
        {"movies": stream(learner, reviews(64))},
        stream(learner, shouted(64, 7), supervised=False),
    )


def features(learner: Learner, rows: Any) -> np.ndarray:
    examples = learner.tasks["reviews"].encode(rows, learner.tokenizer, supervised=False)
    found = dict(prediction.represent(learner, "reviews", examples))
    return np.stack([found[i] for i in range(len(rows))])


def test_reversal() -> None:
    """Forward nothing changes; backward the gradient is multiplied by -λ."""
    given = torch.randn(3, 4, requires_grad=True)
    weights = torch.randn(3, 4)
    out = Reversal.apply(given, 0.3)
    assert torch.equal(out, given)
    (out * weights).sum().backward()
    torch.testing.assert_close(given.grad, -0.3 * weights)


def test_discriminator() -> None:
    """Its loss is the mean of both domains' cross-entropies; its own gradient is not reversed."""
    torch.manual_seed(0)
    found = Discriminator(4, 8)
    found.strength = 0.5
    source, target = torch.randn(5, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    loss = found(source, target)
    odds = found.layers(torch.cat([source, target])).squeeze(-1)
    plain = (
        functional.binary_cross_entropy_with_logits(odds[:5], torch.zeros(5))
        + functional.binary_cross_entropy_with_logits(odds[5:], torch.ones(2))
    ) / 2
    torch.testing.assert_close(loss, plain)
    reversed_, own = torch.autograd.grad(loss, [source, found.layers[0].weight])
    expected, forward = torch.autograd.grad(plain, [source, found.layers[0].weight])
    torch.testing.assert_close(reversed_, -0.5 * expected)
    torch.testing.assert_close(own, forward)


def test_mmd() -> None:
    """Zero for the same rows, above zero for others, and by hand for one row each."""
    torch.manual_seed(0)
    rows = torch.randn(6, 3)
    assert float(mmd(rows, rows)) == pytest.approx(0.0, abs=1e-5)
    assert float(mmd(rows, rows + 3)) > float(mmd(rows, rows + 0.5)) > 1e-3
    # Two points: the mean squared distance over pairs is their own, so k = Σ exp(-1 / w).
    kernel = sum(math.exp(-1 / w) for w in (0.25, 0.5, 1.0, 2.0, 4.0))
    found = mmd(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
    assert float(found) == pytest.approx(5 + 5 - 2 * kernel, abs=1e-4)


def test_coral_by_hand() -> None:
    """‖C_s - C_t‖² / 4H², with numpy's covariance; no mean matters."""
    generator = np.random.default_rng(0)
    source, target = generator.normal(size=(9, 3)), generator.normal(size=(5, 3)) * 2
    expected = np.square(np.cov(source.T) - np.cov(target.T)).sum() / (4 * 9)
    found = coral(torch.tensor(source), torch.tensor(target) + 7)
    assert float(found) == pytest.approx(expected, rel=1e-4)
    assert float(coral(torch.ones(1, 3), torch.ones(1, 3))) == 0.0


def test_proxy_a_distance() -> None:
    """Near 0 where nothing tells the domains apart, near 2 where everything does."""
    generator = np.random.default_rng(0)
    same = proxy_a_distance(generator.normal(size=(400, 4)), generator.normal(size=(400, 4)), 1)
    apart = proxy_a_distance(
        generator.normal(size=(400, 4)), 9 + generator.normal(size=(200, 4)), 1
    )
    assert same < 0.3
    assert apart > 1.9
    twice = generator.normal(size=(100, 50))
    assert proxy_a_distance(twice, twice, 1) == 0.0  # the classifier is worse than chance


def test_strength() -> None:
    """λ = 2 / (1 + exp(-10 p)) - 1, times the weight: 0 at first, the weight at last."""
    paradigm = adaptation(weight=0.5)
    assert paradigm.strength(0.0) == 0.0
    assert paradigm.strength(0.1) == pytest.approx(0.5 * math.tanh(0.5))
    assert paradigm.strength(1.0) == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("method", ["adversarial", "mmd", "coral"])
def test_gradients(learner: Learner, method: str) -> None:
    """The head's gradient is the source loss's; the backbone's has λ times the domain's as well."""
    paradigm = adaptation(method=method)
    torch.manual_seed(1)
    paradigm.prepare(learner)
    draw = paradigm.plan(streams(learner)).draw(0)
    assert set(draw) == {"source", "text"}
    parameter = learner.backbone.layers()[0].attention.self.query.weight
    head = learner.heads["reviews"].weight

    def gradient(strength: float) -> tuple[Tensor, Tensor]:
        learner.zero_grad()
        learner.extras["domain"].strength = strength
        paradigm.gradients(learner, draw, Tensor.backward)
        assert parameter.grad is not None
        return parameter.grad.clone(), head.grad.clone()

    full = 1e4 if method == "coral" else 1.0  # its 4H² makes it small
    none, at_head = gradient(0.0)
    half, also_at_head = gradient(full / 2)
    whole, _ = gradient(full)
    torch.testing.assert_close(at_head, also_at_head)
    difference = whole - none
    largest = float(difference.abs().max())
    assert largest > 1e-8
    torch.testing.assert_close(difference, 2 * (half - none), atol=0.05 * largest, rtol=0.05)


def test_information_by_hand() -> None:
    """log C where each prediction is sure and all are evenly spread; 0 where all are alike."""
    sure = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).log()
    assert float(mutual_information(sure.clamp(min=-100))) == pytest.approx(math.log(2))
    assert float(mutual_information(torch.full((5, 3), 1 / 3).log())) == pytest.approx(0, abs=1e-6)
    p = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    mean = torch.tensor([0.75, 0.25])
    expected = -(mean * mean.log()).sum() + (p * p.log()).sum(-1).mean()
    torch.testing.assert_close(mutual_information(p.log()), expected)


def test_information_reaches_head_and_backbone(learner: Learner) -> None:
    """.grad = ∇ L_source − λ ∇ I(predictions on the target's text)."""
    paradigm = adaptation(method="information")
    paradigm.prepare(learner)
    draw = paradigm.plan(streams(learner)).draw(0)
    paradigm.advance(learner, 0.1)
    values = paradigm.gradients(learner, draw, Tensor.backward)
    parameters = [learner.heads["reviews"].weight, learner.backbone.layers()[0].output.dense.weight]
    found = [p.grad.clone() for p in parameters]
    logits = learner(*draw["text"]).logits
    gained = mutual_information(logits.log_softmax(-1))
    loss = learner(*draw["source"]).loss - paradigm.strength(0.1) * gained
    for one, expected in zip(found, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(one, expected)
    assert values["loss_domain"] == pytest.approx(-paradigm.strength(0.1) * gained.item())


def test_padding_says_nothing_of_words(backbone: Path) -> None:
    """Of a tagged text its words count, not its padding, nor a word's further sub-words."""
    ner = Ner(kind="ner", labels=("thing",))
    learner = new_learner(backbone, {"ner": ner})
    rows = [{"tokens": "the phone was bad", "tags": "O O O O"}, {"tokens": "so", "tags": "O"}]
    batch = collate(ner.encode(rows, learner.tokenizer, supervised=False), 0)
    assert log_probabilities(learner("ner", batch), batch).shape == (5, 3)
    long, short = (ner.encode([row], learner.tokenizer, supervised=False) for row in rows)
    alone = information(learner, "ner", long)
    assert information(learner, "ner", [*long, *long]) == pytest.approx(alone, abs=1e-6)
    assert information(learner, "ner", [*long, *short]) != pytest.approx(alone, abs=1e-6)


def test_labels_of_the_target_are_used(learner: Learner) -> None:
    """With a few labels a batch of them is drawn too, and its loss counts."""
    paradigm = adaptation()
    paradigm.prepare(learner)
    draw = paradigm.plan(streams(learner, labelled=8)).draw(0)
    assert set(draw) == {"source", "target", "text"}
    assert "labels" not in draw["text"][1]
    values = paradigm.gradients(learner, draw, Tensor.backward)
    parts = values["loss_source"] + values["loss_target"] + values["loss_domain"]
    assert values["loss"] == pytest.approx(parts, rel=1e-5)


def test_an_epoch_is_the_targets_as_for_any_paradigm(learner: Learner) -> None:
    """`target_only` sees the target's labels as often; without any, the sources set the pace."""
    given = streams(learner, labelled=8)
    assert isinstance(given.target, Stream)
    assert adaptation().plan(given).steps(2) == given.target.steps(2)
    given = streams(learner)
    assert adaptation().plan(given).steps(2) == given.sources["movies"].steps(2)


@pytest.mark.parametrize("measure", ["adversarial", mmd, coral])
def test_descent_brings_domains_together(measure: Any) -> None:
    """Features that follow the domain loss's gradient end nearer to those of the other domain."""
    torch.manual_seed(0)
    source = torch.randn(200, 4)
    target = torch.nn.Parameter(torch.randn(200, 4) * 2 + 3)
    domain = Discriminator(4, 16) if measure == "adversarial" else Distance(measure)
    domain.strength = 1.0
    optimizer = torch.optim.Adam([target, *domain.parameters()], lr=2e-2)

    def apart() -> tuple[float, float]:
        return float((source.mean(0) - target.mean(0)).norm()), float(coral(source, target))

    means, covariances = apart()
    for _ in range(400):
        optimizer.zero_grad()
        domain(source, target).backward()
        optimizer.step()
    assert apart()[1 if measure is coral else 0] < 0.3 * (
        covariances if measure is coral else means
    )


def test_training_makes_the_domains_alike(
    backbone: Path, classification: TextClassification, tmp_path: Path
) -> None:
    """A linear classifier tells them apart after training on the source alone, and hardly where
    MMD was made small as well; the labels are learned all the same."""

    def distance(weight: float) -> float:
        torch.manual_seed(0)
        learner = new_learner(backbone, {"reviews": classification})
        learner.backbone.set_dropout(0.0)
        given = Streams(
            None,
            "products",
            {"movies": stream(learner, reviews(200), budget=512)},
            stream(learner, shouted(200, 7), supervised=False, budget=512),
        )
        paradigm = adaptation(method="mmd", weight=weight)
        folder = tmp_path / str(weight)
        folder.mkdir()
        schedule = loop.Schedule(steps=400, learning_rate=1e-3, precision="float32")
        loop.train(learner, paradigm, paradigm.plan(given), schedule, folder)
        assert score(learner, "reviews", reviews(200, 40))["accuracy"] > 0.95
        source = prediction.pooled(learner, "reviews", reviews(300, 30))
        target = prediction.pooled(learner, "reviews", shouted(300, 31))
        return proxy_a_distance(source, target, 1)

    assert distance(1e-9) > 1.5
    assert distance(1.0) < 0.8


def test_trains_on_the_targets_text(learner: Learner, tmp_path: Path) -> None:
    """Without a label of the target, and with its text in every step, its labels are learned."""
    paradigm = adaptation(weight=0.1)
    schedule = loop.Schedule(steps=150, learning_rate=1e-3, precision="float32")
    loop.train(learner, paradigm, paradigm.plan(streams(learner)), schedule, tmp_path)
    assert score(learner, "reviews", shouted(100, 22))["accuracy"] > 0.9
    assert "loss_domain" in (tmp_path / loop.METRICS).read_text()


def test_alone_is_fine_tuning() -> None:
    """The baseline sees neither source nor text."""
    alone = adaptation(freeze=2).alone
    assert (alone.kind, alone.freeze, alone.reads_text) == ("fine_tuning", 2, False)
