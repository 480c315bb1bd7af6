"""The one training loop: draw, gradients, reduce, clip, step, schedule, log, checkpoint, resume.

Everything random at step n follows from (seed, n), so a run that is killed and resumed from a
checkpoint takes the very steps it would have taken.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from tasks.learning.batches import moved
from tasks.learning.contracts import Draw, Objective, Plan
from tasks.learning.learner import Learner

logger = logging.getLogger("graft")
CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"
LOG_EVERY = 10

Report = Callable[[int, int, dict[str, float]], None]
"""report(step, steps, values)"""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast the weights move; see `tasks.config.Training` for each field."""

    steps: int
    learning_rate: float
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    precision: str = "auto"
    checkpoint_every: int = 100
    patience: int | None = None


@dataclass
class State:
    """What a checkpoint keeps besides tensors."""

    step: int = 0
    best: float = -math.inf
    best_step: int = -1
    stale: int = 0
    stopped: bool = False
    seconds: float = 0.0
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    """What the steps since the last logged one gave, added up; one batch's value says little."""
    counts: dict[str, int] = field(default_factory=dict)

    def collect(self, values: Mapping[str, float]) -> None:
        """Add one step's values."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """The means of what was collected, which starts anew."""
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


def native_bfloat16() -> bool:
    """Whether this machine computes bfloat16 in hardware (emulation is slower than float32)."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(
        torch.backends.mps.is_available()
        or torch.cpu._is_avx512_bf16_supported()
        or torch.cpu._is_amx_tile_supported()
    )


def precision(requested: str) -> torch.dtype:
    """The type to compute in: "auto" is bfloat16 where it is native, else float32."""
    bfloat16 = requested == "bfloat16" or (requested == "auto" and native_bfloat16())
    return torch.bfloat16 if bfloat16 else torch.float32


def rate(step: int, steps: int, warmup: float) -> float:
    """Linear rise over `warmup` of the steps, then linear fall to zero."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return max(0.0, (steps - step) / max(1, steps - rising))


def train(
    learner: Learner,
    objective: Objective,
    plan: Plan,
    schedule: Schedule,
    folder: Path,
    *,
    validate: Callable[[Learner], dict[str, float]] | None = None,
    metric: str = "",
    report: Report = lambda step, steps, values: None,
) -> dict[str, float]:
    """Train in place; the learner ends on the device it was trained on, adapters merged.

    Args:
        learner: what is trained.
        objective: prepares the learner and fills `.grad`: a paradigm, or pretraining.
        plan: what each step draws, of the objective's making.
        schedule: steps and rates.
        folder: where checkpoint.pt and metrics.jsonl are kept; what is there is resumed. The last
            checkpoint stays until `forget_checkpoint`, so that nothing is lost while the caller
            writes the result.
        validate: scores the learner at each epoch's end, with dropout off.
        metric: the score of `validate` that early stopping watches.
        report: called at every step.

    Returns:
        `steps` taken and `seconds` spent, over all the runs it took.
    """
    engine = Accelerator(mixed_precision="no")  # its precision would be the whole process's
    torch.manual_seed(plan.seed)  # what the paradigm adds follows from the seed, too
    objective.prepare(learner)
    learner.to(engine.device)
    optimizer = _optimizer(learner, objective, schedule)
    rates = [group["lr"] for group in optimizer.param_groups]
    state = _resume(learner, optimizer, folder)
    log = _Log(folder / METRICS, state.step)
    started = time.monotonic() - state.seconds

    while state.step < schedule.steps and not state.stopped:
        torch.manual_seed(plan.seed * 1_000_003 + state.step)
        factor = rate(state.step, schedule.steps, schedule.warmup)
        for group, peak in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = peak * factor
        learner.train()
        objective.advance(learner, state.step / schedule.steps)
        draw = plan.draw(state.step)
        values = _step(learner, objective, draw, optimizer, schedule, engine)
        values["learning_rate"] = rates[-1] * factor
        state.step += 1
        state.collect(values)

        last = state.step == schedule.steps
        epoch_ends = last or plan.epoch(state.step) > plan.epoch(state.step - 1)
        if validate is not None and epoch_ends:
            scores = validate(learner)
            values |= {f"validation_{name}": value for name, value in scores.items()}
            _watch(state, learner, scores[metric], schedule.patience)
        if state.step % LOG_EVERY == 0 or epoch_ends:
            log.write(state.step, values | state.means())
        report(state.step, schedule.steps, values)
        state.seconds = time.monotonic() - started
        if state.step % schedule.checkpoint_every == 0 and not last:
            _checkpoint(state, learner, optimizer, folder)

    _checkpoint(state, learner, optimizer, folder)
    if schedule.patience is not None and state.weights:
        learner.load_state_dict(state.weights, strict=False)
    learner.backbone.merge_adapters()
    learner.requires_grad_(True)
    return {"steps": state.step, "seconds": state.seconds}


def _step(
    learner: Learner,
    objective: Objective,
    draw: Draw,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    engine: Accelerator,
) -> dict[str, float]:
    """Gradients, clipped, and one step of the optimizer."""
    dtype = precision(schedule.precision)
    there = {role: (task, moved(batch, engine.device)) for role, (task, batch) in draw.items()}
    with torch.autocast(engine.device.type, dtype, enabled=dtype != torch.float32):
        values = objective.gradients(learner, there, engine.backward)
    norm = engine.clip_grad_norm_(learner.parameters(), schedule.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {**values, "gradient_norm": float(norm or 0)}


def _optimizer(learner: Learner, objective: Objective, schedule: Schedule) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019), decay on matrices only, fused."""
    groups = []
    for group in objective.parameter_groups(learner, schedule.learning_rate):
        matrices = [p for p in group["params"] if p.ndim > 1]
        vectors = [p for p in group["params"] if p.ndim <= 1]
        groups.append({**group, "params": matrices, "weight_decay": schedule.weight_decay})
        groups.append({**group, "params": vectors, "weight_decay": 0.0})
    return torch.optim.AdamW([g for g in groups if g["params"]], fused=True)


def _watch(state: State, learner: Learner, score: float, patience: int | None) -> None:
    """Keep the best weights; stop after `patience` scores that were no better."""
    if patience is None:
        return
    if score > state.best:
        state.best, state.best_step, state.stale = score, state.step, 0
        state.weights = {n: t.detach().cpu().clone() for n, t in learner.state_dict().items()}
    else:
        state.stale += 1
        state.stopped = state.stale >= patience


def _checkpoint(
    state: State, learner: Learner, optimizer: torch.optim.Optimizer, folder: Path
) -> None:
    """Write aside, then rename: a checkpoint is whole or not there."""
    content: dict[str, Any] = {
        "state": vars(state),
        "learner": learner.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    partial = folder / f"{CHECKPOINT}.partial"
    with partial.open("wb") as file:  # torch's own writer hides a full disk in a RuntimeError
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / CHECKPOINT)


def forget_checkpoint(folder: Path) -> None:
    """For the caller, once it has written what the training was for."""
    for name in (CHECKPOINT, f"{CHECKPOINT}.partial"):
        (folder / name).unlink(missing_ok=True)


def _resume(learner: Learner, optimizer: torch.optim.Optimizer, folder: Path) -> State:
    """Load the checkpoint in `folder`; without one, or with a damaged one, start at step 0."""
    path = folder / CHECKPOINT
    if not path.exists():
        return State()
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        logger.warning("%s cannot be read (%s): starting over", path, str(error).splitlines()[0])
        return State()
    learner.load_state_dict(content["learner"])
    optimizer.load_state_dict(content["optimizer"])
    state = State(**content["state"])
    logger.info("resuming from the checkpoint at step %d", state.step)
    return state


class _Log:
    """metrics.jsonl, one line a logged step; on resume the lines past the checkpoint go."""

    def __init__(self, path: Path, step: int) -> None:
        kept = [line for line in read_lines(path) if json.loads(line)["step"] <= step]
        path.write_text("".join(kept), encoding="utf-8")
        self.path = path

    def write(self, step: int, values: Mapping[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def read_lines(path: Path) -> list[str]:
    """The complete lines of a file that may end in the middle of one, or not exist."""
    if not path.exists():
        return []
    return [x for x in path.read_text(encoding="utf-8").splitlines(True) if x.endswith("\n")]
