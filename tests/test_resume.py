"""kill -9 or Ctrl-C in mid-training, then the same command again."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.project import command, environment, graft, write_project

pytestmark = pytest.mark.integration

LONGER = ("--set", "source_training.epochs=10", "--set", "source_training.tokens_per_batch=256")


def weights(home: Path) -> dict[str, str]:
    """sha256 of every trained tensor file: backbone and heads of each of the three learners."""
    files = home.glob("artifacts/*/*/learner/**/*.safetensors")
    artifacts = home / "artifacts"
    return {
        str(path.relative_to(artifacts)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def in_training(folder: Path, home: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A run, in a process group of its own, that has written a checkpoint; and its servers."""
    # A shell ignores Ctrl-C in what it starts in the background, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        command("run", "toy", *LONGER),
        cwd=folder,
        env=environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 300
    while not list(home.glob("artifacts/source/*.work/checkpoint.pt")):
        assert process.poll() is None, "the run ended before it wrote a checkpoint"
        assert time.monotonic() < deadline, "no checkpoint in five minutes"
        time.sleep(0.02)
    servers = psutil.Process(process.pid).children()
    assert servers, "a run without a Prefect server of its own"
    return process, servers


def test_an_interrupted_run_ends_at_once(tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to the whole process group: the run still has a Prefect server to
    report to, says how to go on, and leaves no server behind."""
    process, servers = in_training(write_project(tmp_path / "project"), tmp_path / "home")
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip().endswith("interrupted; the same command goes on from the last checkpoint")
    assert psutil.wait_procs(servers, timeout=60)[1] == [], "its Prefect server lives on"


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """Killed after a checkpoint, the run leaves no server behind; the next goes on from it and ends
    bit for bit as one left alone."""
    folder = write_project(tmp_path / "project")
    killed, alone = tmp_path / "killed", tmp_path / "alone"
    process, servers = in_training(folder, killed)
    process.kill()
    process.wait()
    assert not list(killed.glob("artifacts/source/*/manifest.json")), "killed too late"
    assert psutil.wait_procs(servers, timeout=60)[1] == [], "its Prefect server lives on"

    resumed = graft(folder, killed, "run", "toy", *LONGER)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming" in resumed.stdout
    left_alone = graft(folder, alone, "run", "toy", *LONGER)
    assert left_alone.returncode == 0, left_alone.stderr
    assert "resuming" not in left_alone.stdout
    assert weights(killed) == weights(alone)
    assert len(weights(alone)) == 6
