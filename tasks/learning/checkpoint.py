"""What a killed training goes on from: weights, optimizer and where it stood, in one file."""

from __future__ import annotations

import logging
import math
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tasks.learning.contracts import Unfit
from tasks.learning.learner import Learner

logger = logging.getLogger("graft")
NAME = "checkpoint.pt"


@dataclass
class State:
    """What a checkpoint keeps besides tensors."""

    step: int = 0
    processes: int = 1
    """How many trained together: a step is so many of the plan's draws."""
    best: float = -math.inf
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


def write(state: State, learner: Learner, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Write aside, then rename: a checkpoint is whole or not there."""
    content: dict[str, Any] = {
        "state": vars(state),
        "learner": learner.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    partial = folder / f"{NAME}.partial"
    with partial.open("wb") as file:  # torch's own writer hides a full disk in a RuntimeError
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / NAME)


def forget(folder: Path) -> None:
    """For the caller, once it has written what the training was for."""
    for name in (NAME, f"{NAME}.partial"):
        (folder / name).unlink(missing_ok=True)


def resume(
    learner: Learner, optimizer: torch.optim.Optimizer, folder: Path, processes: int
) -> State:
    """Load the checkpoint in `folder`; without one, or with a damaged one, start at step 0.

    Raises:
        Unfit: it is of another number of processes, whose steps are other steps.
    """
    path = folder / NAME
    if not path.exists():
        return State(processes=processes)
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        logger.warning("%s cannot be read (%s): starting over", path, str(error).splitlines()[0])
        return State(processes=processes)
    if content["state"]["processes"] != processes:
        raise Unfit(
            f"{path} is of a training by {content['state']['processes']} processes, not by "
            f"{processes}; go on with as many, or delete it"
        )
    learner.load_state_dict(content["learner"])
    optimizer.load_state_dict(content["optimizer"])
    state = State(**content["state"])
    logger.info("resuming from the checkpoint at step %d", state.step)
    return state
