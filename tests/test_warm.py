"""Runs that are forked from a process that has imported what they need."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows import imports, warm

pytestmark = pytest.mark.skipif(not warm.supported(), reason="this machine cannot keep one warm")

ROOT = Path(__file__).parents[1]
WORKER = """
import sys, time
from flows import imports, warm
imports.EVERY_RUN = ("prefect.context",)
real = warm.subprocess.Popen
code = "from flows import warm; warm.ENGINE = 'tests.one_run'; warm.main()"
warm.subprocess.Popen = lambda command, **kept: real([command[0], "-c", code, *command[4:]], **kept)
print(warm.start(["0"]), flush=True)
time.sleep(600)
"""
"""A worker that has started its warm process, whose runs are tests/one_run.py."""


@contextmanager
def worker() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The worker, and the address at which its runs find the warm process."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a warm process that lives through all tests."""
    with worker() as (_, found):
        yield found


def engine(address: str, run: str, folder: Path) -> subprocess.Popen[str]:
    """What a worker starts for a run."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows.engine"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), warm.VARIABLE: address, "RUN": run},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(started: subprocess.Popen[str]) -> dict[str, object]:
    """What a run says when it begins."""
    assert started.stdout
    return dict(json.loads(started.stdout.readline()))


def gone(process: object) -> bool:
    """Whether it ends within ten seconds."""
    for _ in range(100):
        if not Path(f"/proc/{process}").exists():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(("run", "code"), [("ends", 0), ("fails", 3), ("dies", -9)])
def test_a_run_ends_as_it_would_by_itself(
    address: str, run: str, code: int, tmp_path: Path
) -> None:
    """Its folder, environment, output and exit code are the engine's; imports are made."""
    started = engine(address, run, tmp_path)
    said = told(started)
    assert said.pop("process") != started.pid
    assert said == {"folder": str(tmp_path), "arguments": [], "run": run, "warm": True}
    assert started.wait(30) == code


def test_several_at_once(address: str, tmp_path: Path) -> None:
    """One that waits holds up nobody, and a signal goes to its own run alone."""
    first, second = (engine(address, "waits", tmp_path) for _ in range(2))
    runs = [told(first)["process"], told(second)["process"]]
    assert engine(address, "fails", tmp_path).wait(30) == 3
    first.send_signal(signal.SIGTERM)
    assert first.wait(30) == 5
    assert not Path(f"/proc/{runs[0]}").exists()
    assert second.poll() is None
    second.kill()
    assert gone(runs[1])


def test_killed_with_its_engine(address: str, tmp_path: Path) -> None:
    """A run does not outlive the process that the worker knows of."""
    started = engine(address, "waits", tmp_path)
    run = told(started)["process"]
    started.kill()
    assert gone(run)
    assert engine(address, "ends", tmp_path).wait(30) == 0


def test_killed_with_the_worker(tmp_path: Path) -> None:
    """However a worker ends, its runs end; what is started afterwards starts cold, and says so."""
    with worker() as (process, address):
        started = engine(address, "waits", tmp_path)
        run = told(started)["process"]
        process.kill()
        assert started.wait(30) == 1
        assert gone(run)
    cold = engine(address, "ends", tmp_path)
    _, said = cold.communicate(timeout=60)
    assert "warm process is gone" in said
    assert "Invalid flow run id" in said, "it is not Prefect's engine then"
    assert cold.returncode == 1


def test_no_torch_where_there_are_gpus() -> None:
    """What is imported for a worker that has GPUs leaves them to its runs."""
    code = f"""
import importlib, sys
for module in {imports.EVERY_RUN!r}: importlib.import_module(module)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_not_without_asking(address: str, tmp_path: Path) -> None:
    """What is no engine is turned away, and the next one is served."""
    with warm.connected(address) as connection:
        connection.sendall(b"nothing of use\n")
        assert connection.recv(10) == b""
    assert engine(address, "ends", tmp_path).wait(30) == 0
