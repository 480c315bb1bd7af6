"""`processes: 2`: a pipeline that two processes learn, and what becomes of them if one is lost."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import progress
from tasks.errors import ConfigError, StoreError, WorkerError
from tasks.processes import first, together
from tests.operated import children
from tests.project import Graft, ended, write_project

pytestmark = pytest.mark.integration

TWO = "training.processes=2"


def rank_told() -> None:
    """Tells a step, as the first process does when it learns."""
    progress.logger.info("rank %s of %s", os.environ["RANK"], os.environ["WORLD_SIZE"])
    progress.step("toy", int(os.environ["RANK"]), 2, {"loss": 0.5})
    join()


def join() -> None:
    """As the loop does."""
    from accelerate import Accelerator

    assert Accelerator().num_processes == 2


def refused() -> None:
    raise ConfigError(f"no, says {os.environ['RANK']}" if first() else "no")


def fell() -> None:
    join()
    raise ZeroDivisionError("not a refusal")


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "checkpoint.pt")


def killed() -> None:
    join()
    if first():
        time.sleep(60)
    os.kill(os.getpid(), signal.SIGKILL)


def interrupted() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    join()
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)


def test_what_the_first_tells_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lines and its steps, once each."""
    steps: list[Any] = []
    monkeypatch.setattr(progress, "listeners", [lambda *told: steps.append(told)])
    together(2, rank_told)
    assert steps == [("toy", 0, 2, {"loss": 0.5})]
    assert caplog.messages[0] == "rank 0 of 2"
    assert [line for line in caplog.messages if "step" in line] == [
        "toy       step 0/2  loss 0.500"
    ]


@pytest.mark.parametrize(
    ("work", "error", "message"),
    [
        (refused, ConfigError, "^no"),
        (fell, Exception, "not a refusal"),
        (killed, WorkerError, "of 2 processes that learn together, 1 was killed"),
        (interrupted, WorkerError, "of 2 processes that learn together, 2 were interrupted"),
    ],
)
def test_what_ends_them(work: Callable[[], None], error: type[Exception], message: str) -> None:
    """A refusal is one here, too; whatever else happens to one, none is left."""
    with pytest.raises(error, match=message):
        together(2, work)
    assert not [one for one in children(os.getpid()) if "spawn_main" in said(one)]


def said(process: int) -> str:
    """Its command line."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""


def test_too_few_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that shared one would be slower than one alone."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ConfigError, match="processes is 2, but of GPUs there is 1"):
        together(2, join)


def test_a_pipeline(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every training by two: half the steps of one, scored, registered; MLflow has the curve."""
    from flows.transfer import transfer
    from tasks.load import load
    from tasks.tracking import connect

    folder = write_project(tmp_path / "project")
    monkeypatch.chdir(folder)
    found = {}
    for number in (1, 2):
        settings = [f"{part}.processes={number}" for part in ("training", "source_training")]
        further = ["pretraining.steps=6", f"pretraining.processes={number}"]
        further += ["evaluation.baselines=[majority]"]
        done = transfer("toy", load(folder / "pipelines.yaml", "toy", [*settings, *further]))
        found[number] = done
    trained: dict[str, dict[int, int]] = {}
    for path in (home / "artifacts").glob("*/*/training.json"):
        told = json.loads(path.read_text())
        trained.setdefault(path.parents[1].name, {}).setdefault(told["processes"], told["steps"])
    for stage in ("source", "transfer"):
        alone, two = trained[stage][1], trained[stage][2]
        assert two == -(-alone // 2), trained
    pretrained = (home / "artifacts" / "pretrain").glob("*/metrics.jsonl")
    steps = [json.loads(path.read_text().splitlines()[-1])["step"] for path in pretrained]
    assert sorted(steps) == [3, 6]
    assert found[2]["registration"]["version"] == "2"
    client = connect()
    run = client.get_run(found[2]["run"])
    (nested,) = client.search_runs(
        [run.info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{run.info.run_id}' and tags.`graft.system` = 'transfer'",
    )
    assert client.get_metric_history(nested.info.run_id, "loss")


def test_early_stopping_and_features(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stop at once, and the features of a frozen backbone are computed by one of them."""
    from flows.transfer import transfer
    from tasks.load import load

    folder = write_project(tmp_path / "project")
    monkeypatch.chdir(folder)
    settings = [
        *("paradigm.kind=feature_extraction", "training.epochs=300", TWO),
        *("training.early_stopping={patience: 1}", "target.products.split.validation=0.2"),
        "evaluation.baselines=[majority]",
    ]
    transfer("toy", load(folder / "pipelines.yaml", "toy", settings))
    (path,) = (home / "artifacts" / "transfer").glob("*/training.json")
    told = json.loads(path.read_text())
    assert told["processes"] == 2
    assert told["steps"] < 300
    rows = [len(np.load(one)) for one in (home / "artifacts" / "features").glob("*/features.npy")]
    assert sorted(rows) == [3, 21]


def test_a_full_disk() -> None:
    """It is told in one line by two as by one."""
    with pytest.raises(StoreError, match=r"No space left.*free space or set GRAFT_HOME"):
        together(2, full)


def test_a_rank_of_somebody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only processes that were started here have one."""
    monkeypatch.setenv("RANK", "1")
    assert first()


def test_killed_and_resumed(graft: Graft, tmp_path: Path) -> None:
    """None outlives the run that is killed, and the next one goes on from the checkpoint."""
    words = ("run", "toy", "--set", TWO, "--set", "training.epochs=150")
    few = ("--set", "training.checkpoint_every=10")
    run = graft(*words, *few, at=None)
    learned = tmp_path / "home" / "artifacts" / "transfer"
    deadline = time.monotonic() + 120
    while not any(learned.rglob("checkpoint.pt")):
        assert run.poll() is None
        assert time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.2)
    members = [one for one in children(run.pid) if "spawn_main" in said(one)]
    assert len(members) == 2
    run.kill()
    run.communicate()
    deadline = time.monotonic() + 10
    while any("spawn_main" in said(one) for one in members):
        assert time.monotonic() < deadline, "a process outlived its run"
        time.sleep(0.1)
    code, out, err = ended(graft(*words, *few, at=None))
    assert code == 0, err
    (step,) = re.findall(r"resuming from the checkpoint at step (\d+)", out)
    assert int(step) > 0
