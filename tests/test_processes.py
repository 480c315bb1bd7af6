"""Two processes over gloo: the `.grad` of one that takes both draws, and the same weights."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from pydantic import TypeAdapter
from torch import Tensor

from tasks.learning import checkpoint, loop
from tasks.learning.applications.text_classification import TextClassification
from tasks.learning.batches import Stream, Streams
from tasks.learning.contracts import Draw, Paradigm
from tasks.learning.learner import Learner, new_learner
from tasks.learning.paradigms import AnyParadigm
from tasks.learning.paradigms.fine_tuning import FineTuning
from tests.tiny import reviews

META = {"kind": "meta_learning", "shots": 2, "queries": 2, "episodes": 1}
PARADIGMS: dict[str, dict[str, Any]] = {
    "fine_tuning": {"kind": "fine_tuning", "freeze": 1},
    "multi_task": {"kind": "multi_task", "weights": "uncertainty"},
    "adversarial": {"kind": "domain_adaptation"},
    "mmd": {"kind": "domain_adaptation", "method": "mmd"},
    **{
        method: {**META, "method": method}
        for method in ("maml", "fomaml", "reptile", "prototypical")
    },
}
Weights = dict[str, Tensor]


def started(backbone: Path) -> Learner:
    """Two tasks, so that a step of one leaves the other's head without a gradient."""
    torch.manual_seed(0)
    task = TextClassification(kind="text_classification", labels=("negative", "positive"))
    learner = new_learner(backbone, {"reviews": task, "books": task})
    learner.backbone.set_dropout(0.0)
    return learner


def streams(learner: Learner) -> Streams:
    def stream(task: str, seed: int, *, supervised: bool = True) -> Stream:
        rows = reviews(20, seed)
        examples = learner.tasks[task].encode(rows, learner.tokenizer, supervised=supervised)
        classes = [{row["label"]} for row in rows]
        return Stream(task, examples, pad_id=0, budget=64, seed=1, classes=classes)

    sources = {"books": stream("books", 1), "films": stream("reviews", 2)}
    return Streams(stream("reviews", 3), "reviews", sources, stream("reviews", 4, supervised=False))


def gradient(learner: Learner, paradigm: Paradigm, steps: list[int]) -> None:
    """Fill `.grad` with the sum over these steps' draws."""
    torch.manual_seed(0)
    paradigm.prepare(learner)
    paradigm.advance(learner, 0.5)
    plan = paradigm.plan(streams(learner))
    for step in steps:
        paradigm.gradients(learner, plan.draw(step), Tensor.backward)


def gradients(learner: Learner) -> dict[str, Tensor | None]:
    return {n: None if p.grad is None else p.grad.clone() for n, p in learner.named_parameters()}


def work(backbone: Path, folder: Path, rank: int) -> None:
    """What each of the two processes does: of every paradigm a gradient, then a whole training."""
    engine = Accelerator()
    found = {}
    for name, settings in PARADIGMS.items():
        learner = started(backbone)
        gradient(learner, TypeAdapter(AnyParadigm).validate_python(settings), [rank])
        loop.average_gradients(learner, engine)
        found[name] = gradients(learner)
    means = loop.mean_values({"loss": float(rank), f"of {rank}": 1.0}, engine)
    learner = started(backbone)
    paradigm = FineTuning(kind="fine_tuning")
    schedule = loop.Schedule(steps=7, learning_rate=1e-2, precision="float32")
    summary = loop.train(learner, paradigm, paradigm.plan(streams(learner)), schedule, folder)
    content = {"gradients": found, "weights": learner.state_dict(), "steps": summary["steps"]}
    torch.save({**content, "means": means}, folder.parent / f"{rank}.pt")


def joined(rank: int, port: int, backbone: Path, folder: Path) -> None:
    """One of two processes, as a launcher would start it."""
    os.environ |= {
        "ACCELERATE_USE_CPU": "1",
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": "2",
    }
    assert Accelerator().num_processes == 2
    assert torch.distributed.get_backend() == "gloo"
    work(backbone, folder, rank)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def trained(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """Where the two processes trained, and what each of them found."""
    folder = tmp_path_factory.mktemp("processes") / "training"
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=joined, args=(rank, port, backbone, folder)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    first, second = (torch.load(folder.parent / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    return folder, first, second


def close(found: dict[str, Tensor | None], expected: dict[str, Tensor | None]) -> None:
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.integration
@pytest.mark.parametrize("name", PARADIGMS)
def test_the_same_gradient(name: str, backbone: Path, trained: tuple[Path, Any, Any]) -> None:
    """The mean of both draws' gradients, in both processes; None where neither has one."""
    learner = started(backbone)
    gradient(learner, TypeAdapter(AnyParadigm).validate_python(PARADIGMS[name]), [0, 1])
    expected = {n: None if g is None else g / 2 for n, g in gradients(learner).items()}
    assert any(g is not None and bool(g.any()) for g in expected.values())
    for found in trained[1:]:
        close(found["gradients"][name], expected)


@pytest.mark.integration
def test_the_same_values(trained: tuple[Path, Any, Any]) -> None:
    """The mean of what both say; what one alone says, such as a probe's, is kept."""
    for found in trained[1:]:
        assert found["means"] == {"loss": 0.5, "of 0": 1.0, "of 1": 1.0}


class Pairs:
    """One process's plan and objective that does what two do: a step down the mean of two draws."""

    def __init__(self, learner: Learner) -> None:
        self.paradigm = FineTuning(kind="fine_tuning")
        self.inner = self.paradigm.plan(streams(learner))
        self.seed = self.inner.seed
        self.prepare, self.advance = self.paradigm.prepare, self.paradigm.advance
        self.parameter_groups = self.paradigm.parameter_groups

    def steps(self, epochs: int) -> int:
        return self.inner.steps(epochs) // 2

    def epoch(self, step: int) -> int:
        return self.inner.epoch(2 * step)

    def draw(self, step: int) -> Draw:
        return {str(i): self.inner.draw(2 * step + i)["target"] for i in (0, 1)}

    def gradients(
        self, learner: Learner, draw: Draw, backward: Callable[[Tensor], None]
    ) -> dict[str, float]:
        losses = [learner(*one).loss for one in draw.values()]
        loss = torch.stack(losses).mean()
        backward(loss)
        return {"loss": float(loss.detach())}


@pytest.mark.integration
def test_the_same_training(backbone: Path, tmp_path: Path, trained: tuple[Path, Any, Any]) -> None:
    """Half the steps, equal weights in both, those of one process; one log and one checkpoint."""
    folder, first, second = trained
    assert first["steps"] == second["steps"] == 4
    for name, value in first["weights"].items():
        assert value.equal(second["weights"][name]), name
    assert sorted(path.name for path in folder.iterdir()) == [checkpoint.NAME, loop.METRICS]

    alone = started(backbone)
    pairs = Pairs(alone)
    schedule = loop.Schedule(steps=4, learning_rate=1e-2, precision="float32")
    loop.train(alone, pairs, pairs, schedule, tmp_path)
    close(first["weights"], dict(alone.state_dict()))
