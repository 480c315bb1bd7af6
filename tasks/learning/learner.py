"""A backbone, one head a task, and what a paradigm adds. Saved as safetensors.

learner/backbone/        a transformers folder: config.json, model.safetensors, tokenizer
learner/heads.safetensors
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from tasks.learning.backbone import Backbone, load_backbone, load_tokenizer
from tasks.learning.contracts import Application, Batch, Output

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


def inside(task: str) -> str:
    """What torch knows a task as: of its own it refuses such names as "cpu" and "train"."""
    return f"task_{task}"


class ByTask(nn.ModuleDict):
    """A module a task: `ByTask({"news": head})["news"]`."""

    def __getitem__(self, task: str) -> nn.Module:
        return super().__getitem__(inside(task))

    def __setitem__(self, task: str, module: nn.Module) -> None:
        super().__setitem__(inside(task), module)


class Learner(nn.Module):
    """Everything that is trained together."""

    def __init__(
        self,
        backbone: Backbone,
        tokenizer: PreTrainedTokenizerBase,
        tasks: Mapping[str, Application],
    ) -> None:
        """A learner with new heads; seed torch before, for the same heads again."""
        super().__init__()
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.tasks = dict(tasks)
        backbone.writes = any(not application.labels for application in tasks.values())
        self.heads = ByTask({n: a.head(backbone.width) for n, a in tasks.items()})
        self.extras = nn.ModuleDict()

    def represent(self, task: str, batch: Batch) -> Tensor:
        """What the task's head reads: (B, H) or (B, S, H), kept from before or computed now."""
        kept = batch.get("represented")
        return self.tasks[task].represent(self.backbone, batch) if kept is None else kept

    def forward(self, task: str, batch: Batch) -> Output:
        """The task's loss, logits and features."""
        representation = self.represent(task, batch)
        return self.tasks[task].respond(self.backbone, self.heads[task], representation, batch)

    def save(self, folder: Path) -> None:
        """Write the learner; adapters must be merged and extras are not kept.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        try:
            self.backbone.model.save_pretrained(folder / "backbone")
            self.tokenizer.save_pretrained(folder / "backbone")
            heads = {n.removeprefix(inside("")): t for n, t in self.heads.state_dict().items()}
            save_file(heads, folder / "heads.safetensors")
        except SafetensorError as error:  # the library hides the operating system's error in one
            full = "No space left" in str(error)
            raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(folder)) from error

    def load_heads(self, folder: Path) -> None:
        """Take the heads of a saved learner that has these tasks, and perhaps others."""
        saved = load_file(folder / "heads.safetensors")
        own = {name: t for name, t in saved.items() if name.partition(".")[0] in self.tasks}
        self.heads.load_state_dict({inside(name): t for name, t in own.items()})

    def inherit(self, task: str, other: str) -> None:
        """Start a task's head with what another's knows of the outputs they share by name.

        news      O B-person I-person B-location …      politics  O B-person I-person B-election …
        politics's rows for O and person become news's; the others stay as they are. Heads with
        hidden layers have something to give to those of the very same outputs alone, and those of
        another kind of application nothing.
        """
        mine, theirs = self.heads[task], self.heads[other]
        own, known = self.tasks[task], self.tasks[other]
        if own.kind != known.kind:
            return
        shapes = [{n: p.shape for n, p in head.named_parameters()} for head in (mine, theirs)]
        if own.outputs == known.outputs and shapes[0] == shapes[1]:
            mine.load_state_dict(theirs.state_dict())
            return
        if not (isinstance(mine, nn.Linear) and isinstance(theirs, nn.Linear)):
            return
        shared = [name for name in own.outputs if name in known.outputs]
        to = [own.outputs.index(name) for name in shared]
        of = [known.outputs.index(name) for name in shared]
        with torch.no_grad():
            mine.weight[to] = theirs.weight[of]
            mine.bias[to] = theirs.bias[of]


def last_layer(head: nn.Module) -> nn.Linear:
    """The linear layer that gives a head's logits."""
    layers = [module for module in head.modules() if isinstance(module, nn.Linear)]
    return layers[-1]


def load_learner(folder: Path, tasks: Mapping[str, Application]) -> Learner:
    """A saved learner, heads included, to predict with: on the accelerator where there is one."""
    learner = new_learner(folder / "backbone", tasks)
    learner.load_heads(folder)
    return learner.to(accelerator()).eval()


def accelerator() -> torch.device:
    """A GPU or its like where there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def new_learner(backbone: Path, tasks: Mapping[str, Application]) -> Learner:
    """A learner with a pretrained backbone and untrained heads."""
    return Learner(load_backbone(backbone), load_tokenizer(backbone), tasks)
