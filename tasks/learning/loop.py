"""The one training loop: draw, gradients, reduce, clip, step, schedule, log, checkpoint, resume.

Everything random at step n follows from (seed, n), so a run that is killed and resumed from a
checkpoint takes the very steps it would have taken.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from tasks.learning import checkpoint
from tasks.learning.batches import moved
from tasks.learning.checkpoint import State
from tasks.learning.contracts import Draw, Objective, Plan, Unfit
from tasks.learning.learner import Learner

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

    Of P processes each takes every P-th of the plan's draws, and a step is down the mean of their
    gradients: as with DistributedDataParallel, P times the rows a step and a P-th of the steps.

    Args:
        learner: what is trained.
        objective: prepares the learner and fills `.grad`: a paradigm, or pretraining.
        plan: what each step draws, of the objective's making.
        schedule: how many draws, and rates.
        folder: where checkpoint.pt and metrics.jsonl are kept; what is there is resumed. The last
            checkpoint stays until `checkpoint.forget`, so that nothing is lost while the caller
            writes the result.
        validate: scores the learner at each epoch's end, with dropout off.
        metric: the score of `validate` that early stopping watches.
        report: called at every step.

    Returns:
        `steps` taken and `seconds` spent, over all the runs it took.

    Raises:
        Unfit: the checkpoint is of another number of processes, the paradigm does not go with the
            backbone, or the loss is no longer finite.
    """
    engine = Accelerator(mixed_precision="no")  # its precision would be the whole process's
    torch.manual_seed(plan.seed)  # what the paradigm adds follows from the seed, too
    objective.prepare(learner)
    learner.to(engine.device)
    optimizer = _optimizer(learner, objective, schedule)
    rates = [group["lr"] for group in optimizer.param_groups]
    state = checkpoint.resume(learner, optimizer, folder, engine.num_processes)
    writes = engine.is_main_process
    log = _Log(folder / METRICS, state.step) if writes else None
    started = time.monotonic() - state.seconds
    at_once = engine.num_processes
    steps = math.ceil(schedule.steps / at_once)

    while state.step < steps and not state.stopped:
        number = state.step * at_once + engine.process_index  # of the plan's draws
        torch.manual_seed(plan.seed * 1_000_003 + number)
        factor = rate(state.step, steps, schedule.warmup)
        for group, peak in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = peak * factor
        learner.train()
        objective.advance(learner, state.step / steps)
        values = _step(learner, objective, plan.draw(number), optimizer, schedule, engine)
        values = mean_values(values, engine)
        values["learning_rate"] = rates[-1] * factor
        state.step += 1
        state.collect(values)

        last = state.step == steps
        drawn = state.step * at_once
        epoch_ends = last or plan.epoch(drawn) > plan.epoch(drawn - at_once)
        if validate is not None and epoch_ends:
            scores = validate(learner)
            values |= {f"validation_{name}": value for name, value in scores.items()}
            _watch(state, learner, scores[metric], schedule.patience)
            state.stopped = any_process(state.stopped, engine)
        if log and (state.step % LOG_EVERY == 0 or epoch_ends):
            log.write(state.step, values | state.means())
        report(state.step, steps, values)
        state.seconds = time.monotonic() - started
        if writes and (last or state.stopped or state.step % schedule.checkpoint_every == 0):
            checkpoint.write(state, learner, optimizer, folder)

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
    """Gradients, averaged over processes, clipped, and one step of the optimizer."""
    dtype = precision(schedule.precision)
    there = {role: (task, moved(batch, engine.device)) for role, (task, batch) in draw.items()}
    with torch.autocast(engine.device.type, dtype, enabled=dtype != torch.float32):
        values = objective.gradients(learner, there, engine.backward)
    average_gradients(learner, engine)
    norm = engine.clip_grad_norm_(learner.parameters(), schedule.clip_norm)
    values["gradient_norm"] = float(norm or 0)
    if not math.isfinite(values["gradient_norm"]):
        raise Unfit("the loss is no longer finite; lower the learning rate")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return values


def average_gradients(learner: Learner, engine: Accelerator) -> None:
    """Make each `.grad` its mean over the processes; one that no process has stays None.

    A paradigm may fill `.grad` without a backward pass of the learner (Reptile does), where
    DistributedDataParallel's hooks would not be called: so it is done here, once.
    """
    if engine.num_processes == 1:
        return
    trained = [p for p in learner.parameters() if p.requires_grad]
    has = torch.tensor([float(p.grad is not None) for p in trained], device=engine.device)
    used = [p for p, any_has in zip(trained, engine.reduce(has).tolist(), strict=True) if any_has]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in used])
    means = engine.reduce(flat, "mean").split([p.numel() for p in used])
    for parameter, mean in zip(used, means, strict=True):
        parameter.grad = mean.view_as(parameter)


def mean_values(values: dict[str, float], engine: Accelerator) -> dict[str, float]:
    """Each value's mean over the processes that have it."""
    if engine.num_processes == 1:
        return values
    found: list[dict[str, float]] = gather_object([values])
    names = dict.fromkeys(name for one in found for name in one)
    return {name: fmean(one[name] for one in found if name in one) for name in names}


def any_process(said: bool, engine: Accelerator) -> bool:
    """Whether one process says so: scores that differ in the last bit must not part them."""
    return bool(engine.reduce(torch.tensor(float(said), device=engine.device)) > 0)


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
        state.best, state.stale = score, 0
        state.weights = {n: t.detach().cpu().clone() for n, t in learner.state_dict().items()}
    else:
        state.stale += 1
        state.stopped = state.stale >= patience


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
