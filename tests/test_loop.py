from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.learning import checkpoint, loop
from tasks.learning.applications.text_classification import TextClassification
from tasks.learning.batches import Stream, Together
from tasks.learning.contracts import Objective
from tasks.learning.descent import twice_differentiable
from tasks.learning.learner import Learner, new_learner
from tasks.learning.objectives.masked import MaskedLanguageModelling
from tasks.learning.paradigms.fine_tuning import FineTuning
from tasks.learning.paradigms.tuning import Lora
from tasks.learning.prediction import evaluating
from tests.tiny import reviews, score, write_backbone

APPLICATION = TextClassification(kind="text_classification", labels=("negative", "positive"))
PLAIN = FineTuning(kind="fine_tuning")
Weights = dict[str, torch.Tensor]


class Killed(BaseException):
    """As little expected as a signal."""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("tiny"), layers=1)


@pytest.fixture(scope="module")
def start(backbone: Path) -> Callable[..., Learner]:
    """A learner at its starting point, with dropout on."""

    def started(seed: int = 0) -> Learner:
        torch.manual_seed(seed)
        learner = new_learner(backbone, {"reviews": APPLICATION})
        learner.backbone.set_dropout(0.1)
        return learner

    return started


def schedule(**options: Any) -> loop.Schedule:
    settings = {"steps": 24, "learning_rate": 2e-3, "checkpoint_every": 5, "precision": "float32"}
    return loop.Schedule(**{**settings, **options})


def train(
    learner: Learner,
    folder: Path,
    objective: Objective = PLAIN,
    *,
    seed: int = 1,
    report: loop.Report = lambda step, steps, values: None,
    validate: Callable[[Learner], dict[str, float]] | None = None,
    **options: Any,
) -> dict[str, float]:
    """24 steps over 32 reviews, about three steps an epoch, unless told otherwise."""
    folder.mkdir(exist_ok=True)
    examples = APPLICATION.encode(reviews(32), learner.tokenizer)
    stream = Stream("reviews", examples, pad_id=0, budget=128, seed=seed)
    return loop.train(
        learner,
        objective,
        Together(target=stream),
        schedule(**options),
        folder,
        validate=validate,
        metric="score",
        report=report,
    )


def kill_at(when: int) -> loop.Report:
    def report(step: int, *_: object) -> None:
        if step == when:
            raise Killed

    return report


@pytest.fixture(scope="module")
def left_alone(start: Callable[..., Learner], tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """The weights of a run that nothing happens to."""
    learner = start()
    train(learner, tmp_path_factory.mktemp("alone"))
    return weights(learner)


def weights(learner: Learner) -> Weights:
    return {name: t.detach().clone() for name, t in learner.state_dict().items()}


def same(left: Weights, right: Weights) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def nearness(start: Learner) -> Callable[[Learner], dict[str, float]]:
    """A score that follows from the weights alone and falls as the head moves away."""
    head = start.heads["reviews"].weight.detach().clone()
    return lambda learner: {
        "score": -float((learner.heads["reviews"].weight.detach() - head).norm())
    }


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "lora": {"objective": FineTuning(kind="fine_tuning", lora=Lora(rank=2, dropout=0.1))},
    "gradual": {"objective": FineTuning(kind="fine_tuning", gradual_unfreezing=True)},
    "early stopping": {"patience": 5},
    "early stopping with lora": {
        "objective": FineTuning(kind="fine_tuning", lora=Lora(rank=2)),
        "patience": 5,
    },
    "pretraining": {"objective": MaskedLanguageModelling(0.15)},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_and_resumed(
    variant: str,
    tmp_path: Path,
    start: Callable[..., Learner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A killed run resumes to the same weights and the same log as one left alone."""
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    options = dict(VARIANTS[variant])
    if "patience" in options:
        options["validate"] = nearness(start())
    alone = start()
    expected = train(alone, tmp_path / "alone", **options)

    seen: list[int] = []
    with pytest.raises(Killed):
        train(start(), tmp_path / "killed", report=kill_at(13), **options)
    assert (tmp_path / "killed" / checkpoint.NAME).exists()
    resumed = start(seed=99)  # whatever it starts from, the checkpoint decides
    found = train(
        resumed, tmp_path / "killed", report=lambda step, *_: seen.append(step), **options
    )

    assert seen[0] == 11
    assert found["steps"] == expected["steps"]
    assert same(weights(resumed), weights(alone))
    log = (tmp_path / "killed" / loop.METRICS).read_bytes()
    assert log == (tmp_path / "alone" / loop.METRICS).read_bytes()
    if "patience" in options:
        assert expected["steps"] < 24


@pytest.mark.parametrize("when", [1, 5, 6, 24])
def test_killed_anywhere(
    when: int, tmp_path: Path, start: Callable[..., Learner], left_alone: Weights
) -> None:
    """Before the first checkpoint, while one was due, right after it, and at the very end."""
    resumed = start()
    with pytest.raises(Killed):
        train(start(), tmp_path / "killed", report=kill_at(when))
    train(resumed, tmp_path / "killed")
    assert same(weights(resumed), left_alone)


def test_killed_twice(tmp_path: Path, start: Callable[..., Learner], left_alone: Weights) -> None:
    """A run that is killed again and again still ends where it would have."""
    resumed = start()
    for when in (7, 12, 13, 22):
        with pytest.raises(Killed):
            train(start(), tmp_path / "killed", report=kill_at(when))
    train(resumed, tmp_path / "killed")
    assert same(weights(resumed), left_alone)


def test_checkpoints_do_not_change_anything(tmp_path: Path, start: Callable[..., Learner]) -> None:
    """How often a checkpoint is written decides nothing about the weights."""
    often, never = start(), start()
    train(often, tmp_path / "often", checkpoint_every=1)
    train(never, tmp_path / "never", checkpoint_every=1000)
    assert same(weights(often), weights(never))


def test_partial_checkpoint_is_ignored(
    tmp_path: Path, start: Callable[..., Learner], left_alone: Weights
) -> None:
    """A checkpoint that was being written when the run was killed is not read."""
    resumed = start()
    with pytest.raises(Killed):
        train(start(), tmp_path / "killed", report=kill_at(12))
    partial = tmp_path / "killed" / f"{checkpoint.NAME}.partial"
    partial.write_bytes(b"PK half a checkp")
    train(resumed, tmp_path / "killed")
    assert same(weights(resumed), left_alone)
    assert not partial.exists()


def test_line_cut_short(
    tmp_path: Path, start: Callable[..., Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that ends in the middle of a line is mended on resume."""
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    train(start(), tmp_path / "alone")
    with pytest.raises(Killed):
        train(start(), tmp_path / "killed", report=kill_at(12))
    with (tmp_path / "killed" / loop.METRICS).open("a") as file:
        file.write('{"step": 12, "lo')
    train(start(), tmp_path / "killed")
    log = (tmp_path / "killed" / loop.METRICS).read_bytes()
    assert log == (tmp_path / "alone" / loop.METRICS).read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_at_a_checkpoint(tmp_path: Path, start: Callable[..., Learner]) -> None:
    """A full disk is an OSError that says so: the store makes one line of it."""
    (tmp_path / f"{checkpoint.NAME}.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        train(start(), tmp_path)
    assert caught.value.errno == errno.ENOSPC


def test_what_is_left(tmp_path: Path, start: Callable[..., Learner]) -> None:
    """A finished run leaves its log, and the last checkpoint until it is told to forget it."""
    found = train(start(), tmp_path)
    again = train(start(), tmp_path)  # a kill while the result was being written loses nothing
    assert again["steps"] == found["steps"]
    checkpoint.forget(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [loop.METRICS]
    lines = [json.loads(x) for x in (tmp_path / loop.METRICS).read_text().splitlines()]
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert {10, 20, 24} <= set(steps)
    assert all({"loss", "gradient_norm", "learning_rate"} <= set(line) for line in lines)
    assert found["steps"] == 24
    assert found["seconds"] > 0


def test_early_stopping_keeps_the_best(tmp_path: Path, start: Callable[..., Learner]) -> None:
    """0.1, 0.5, 0.3, 0.5: with patience 2 the run stops at the fourth and keeps the second."""
    scores = iter([0.1, 0.5, 0.3, 0.5, 0.9])
    history: list[Weights] = []

    def validate(learner: Learner) -> dict[str, float]:
        history.append(weights(learner))
        return {"score": next(scores), "other": 1.0}

    learner = start()
    found = train(learner, tmp_path, validate=validate, patience=2, steps=1000)
    assert len(history) == 4
    assert same(weights(learner), history[1])
    assert not same(history[1], history[3])
    lines = [json.loads(x) for x in (tmp_path / loop.METRICS).read_text().splitlines()]
    assert [x["validation_score"] for x in lines if "validation_score" in x] == [0.1, 0.5, 0.3, 0.5]
    assert found["steps"] == lines[-1]["step"]


def test_without_early_stopping(tmp_path: Path, start: Callable[..., Learner]) -> None:
    """Without patience all steps are taken and the last weights kept, however they score."""
    history: list[Weights] = []

    def validate(learner: Learner) -> dict[str, float]:
        history.append(weights(learner))
        return {"score": -float(len(history))}

    learner = start()
    assert train(learner, tmp_path, validate=validate)["steps"] == 24
    assert same(weights(learner), history[-1])
    assert len(history) > 3


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [
        (0.2, [1 / 2, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        (0.5, [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5]),
        (0.0, [1, 1, 8 / 9, 7 / 9, 6 / 9, 5 / 9, 4 / 9, 3 / 9, 2 / 9, 1 / 9]),
    ],
)
def test_schedule(warmup: float, expected: list[float]) -> None:
    """The rate rises linearly over the warm-up and falls linearly to the end."""
    assert [loop.rate(step, 10, warmup) for step in range(10)] == pytest.approx(expected)


def test_schedule_reaches_the_optimizer(tmp_path: Path, start: Callable[..., Learner]) -> None:
    """The rate that is reported is the schedule's, at every step."""
    seen = []
    train(start(), tmp_path, report=lambda s, n, values: seen.append(values["learning_rate"]))
    assert seen == pytest.approx([2e-3 * loop.rate(step, 24, 0.1) for step in range(24)])


class Given:
    """An objective whose gradient is a constant everywhere."""

    prepare = PLAIN.prepare
    parameter_groups = PLAIN.parameter_groups
    advance = PLAIN.advance

    def __init__(self, value: float) -> None:
        self.value = value

    def gradients(self, learner: Learner, *_: Any) -> dict[str, float]:
        for parameter in learner.parameters():
            parameter.grad = torch.full_like(parameter, self.value)
        return {"loss": 0.0}


def test_weight_decay_on_matrices_only(tmp_path: Path, start: Callable[..., Learner]) -> None:
    """With no gradient, a step scales matrices by 1 - η·decay and leaves vectors alone."""
    learner = start()
    before = weights(learner)
    train(learner, tmp_path, Given(0.0), steps=1, warmup=0.0, learning_rate=0.1, weight_decay=0.5)
    kinds = set()
    for name, parameter in learner.named_parameters():
        expected = before[name] * (1 - 0.1 * 0.5) if parameter.ndim > 1 else before[name]
        torch.testing.assert_close(parameter.detach(), expected)
        kinds.add(parameter.ndim)
    assert kinds == {1, 2}


@pytest.mark.parametrize(("value", "clipped"), [(5.0, True), (1e-5, False)])
def test_clipping(
    value: float,
    clipped: bool,
    tmp_path: Path,
    start: Callable[..., Learner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A long gradient is cut to `clip_norm`, a short one left; its own length is reported."""
    monkeypatch.setattr(
        loop,
        "_optimizer",
        lambda learner, *_: torch.optim.SGD(learner.parameters(), lr=1.0),
    )
    learner, seen = start(), {}
    before = weights(learner)
    train(
        learner,
        tmp_path,
        Given(value),
        steps=1,
        warmup=0.0,
        clip_norm=0.5,
        report=lambda s, n, values: seen.update(values),
    )
    step = math.sqrt(
        sum(float((p - before[n]).detach().double().pow(2).sum())
            for n, p in learner.named_parameters())
    )  # fmt: skip
    whole = value * math.sqrt(sum(p.numel() for p in learner.parameters()))
    assert seen["gradient_norm"] == pytest.approx(whole, rel=1e-4)
    assert step == pytest.approx(0.5 if clipped else whole, rel=1e-2)


def test_seeds(tmp_path: Path, start: Callable[..., Learner]) -> None:
    """The same seed gives the same weights, another one others."""
    first, again, other = start(), start(), start()
    train(first, tmp_path / "first")
    torch.manual_seed(12345)  # what happened before in the process does not matter
    train(again, tmp_path / "again")
    train(other, tmp_path / "other", seed=2)
    assert same(weights(first), weights(again))
    assert not same(weights(first), weights(other))


@pytest.mark.parametrize("variant", ["lora", "pretraining"])
def test_additions_follow_from_the_seed(
    variant: str, tmp_path: Path, start: Callable[..., Learner]
) -> None:
    """What a paradigm adds starts the same under one seed, whatever happened before."""
    first, again = start(), start()
    torch.manual_seed(1)
    train(first, tmp_path / "first", steps=2, **VARIANTS[variant])
    torch.manual_seed(2)
    train(again, tmp_path / "again", steps=2, **VARIANTS[variant])
    assert same(weights(first), weights(again))


def test_dropout_is_on_while_training(tmp_path: Path, start: Callable[..., Learner]) -> None:
    """Dropout is what the configuration says, and off while scoring."""
    without, with_dropout = start(), start()
    without.backbone.set_dropout(0.0)
    modes = []

    def validate(learner: Learner) -> dict[str, float]:
        found = score(learner, "reviews", reviews(4))
        modes.append(learner.training)
        return {"score": found["accuracy"]}

    train(without, tmp_path / "without", validate=validate)
    train(with_dropout, tmp_path / "with")
    assert not same(weights(without), weights(with_dropout))
    assert set(modes) == {True}


def test_it_learns(tmp_path: Path, start: Callable[..., Learner]) -> None:
    """On reviews that one word decides, the loss falls and unseen ones are told apart."""
    learner, losses = start(), []
    train(learner, tmp_path, steps=60, report=lambda s, n, values: losses.append(values["loss"]))
    assert sum(losses[:5]) / 5 > 0.5
    assert sum(losses[-5:]) / 5 < 0.1
    assert score(learner, "reviews", reviews(60, seed=7))["accuracy"] > 0.95


def test_everything_learns_again_afterwards(tmp_path: Path, start: Callable[..., Learner]) -> None:
    """Freezing ends with the training it was asked for."""
    learner = start()
    train(learner, tmp_path, FineTuning(kind="fine_tuning", freeze=1), steps=1)
    assert all(p.requires_grad for p in learner.parameters())


def test_native_bfloat16() -> None:
    """Whether the hardware computes bfloat16 is a plain yes or no."""
    assert isinstance(loop.native_bfloat16(), bool)


@pytest.mark.parametrize("native", [True, False])
def test_precision(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """auto is bfloat16 where it is native; the others are what they say."""
    monkeypatch.setattr(loop, "native_bfloat16", lambda: native)
    found = [loop.precision(requested) for requested in ("float32", "bfloat16", "auto")]
    assert found == [torch.float32, torch.bfloat16, torch.bfloat16 if native else torch.float32]


def test_bfloat16_keeps_float32_weights(tmp_path: Path, start: Callable[..., Learner]) -> None:
    """bfloat16, then float32 in one process: only the arithmetic is short, weights stay float32."""
    short, long = start(), start()
    train(short, tmp_path / "short", steps=2, precision="bfloat16")
    train(long, tmp_path / "long", steps=2)
    assert {p.dtype for p in short.parameters()} == {torch.float32}
    assert not same(weights(short), weights(long))


def test_evaluating(start: Callable[..., Learner]) -> None:
    """Inside, dropout and gradients are off; afterwards the mode is as before, even on failure."""
    learner, inside = start(), []

    def fail() -> None:
        with evaluating(learner):
            inside.append((learner.training, torch.is_inference_mode_enabled()))
            raise Killed

    for mode in (True, False):
        learner.train(mode)
        with pytest.raises(Killed):
            fail()
        assert learner.training is mode
    assert inside == [(False, True), (False, True)]


def test_a_damaged_checkpoint_is_not_trusted(
    start: Callable[..., Learner], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A checkpoint that cannot be read is said so and left aside; training starts at step 0."""
    (tmp_path / checkpoint.NAME).write_bytes(b"PK half of a file")
    assert train(start(), tmp_path, steps=2)["steps"] == 2
    assert "starting over" in caplog.text


def test_attention_is_not_cudnns() -> None:
    """Which compiles for each shape: not once anything learns, nor after MAML's plain products."""
    with twice_differentiable():
        assert not torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
    assert not torch.backends.cuda.cudnn_sdp_enabled()
