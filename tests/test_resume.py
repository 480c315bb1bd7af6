"""kill -9 in mid-training, then the same command again."""

from __future__ import annotations

import hashlib
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


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """Killed after a checkpoint, the run leaves no server behind; the next goes on from it and ends
    bit for bit as one left alone."""
    folder = write_project(tmp_path / "project")
    killed, alone = tmp_path / "killed", tmp_path / "alone"
    process = subprocess.Popen(
        command("run", "toy", *LONGER),
        cwd=folder,
        env=environment(killed),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not list(killed.glob("artifacts/source/*.work/checkpoint.pt")):
        assert process.poll() is None, "the run ended before it wrote a checkpoint"
        assert time.monotonic() < deadline, "no checkpoint in five minutes"
        time.sleep(0.02)
    servers = psutil.Process(process.pid).children()
    assert servers, "a run without a Prefect server of its own"
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
