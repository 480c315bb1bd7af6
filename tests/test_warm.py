"""Runs that are forked from a process that has imported what they need."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from flows import imports, warm

pytestmark = pytest.mark.skipif(not warm.supported(), reason="this machine cannot keep one warm")

ROOT = Path(__file__).parents[1]
WORKER = """
import sys, time
from flows import imports, warm
if devices := sys.argv[1:]:
    imports.EVERY_RUN = ("prefect.context",)
real = warm.subprocess.Popen
code = "from flows import warm; warm.ENGINE = 'tests.one_run'; warm.main()"
warm.subprocess.Popen = lambda command, **kept: real([command[0], "-c", code, *command[4:]], **kept)
print(warm.start(devices), flush=True)
time.sleep(600)
"""
"""A worker of some devices that has started its warm process, whose runs are tests/one_run.py; with
devices next to nothing is imported."""
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
    "PYTHONPATH": str(ROOT),
}


@contextmanager
def worker(*devices: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The worker, and the address at which its runs find the warm process."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, *devices],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    try:
        address = process.stdout.readline().strip()
        for _ in range(600):
            with suppress(OSError):
                warm.connected(address).close()
                break
            time.sleep(0.1)
        yield process, address
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a warm process that lives through all tests."""
    with worker("0") as (_, found):
        yield found


def engine(address: str, run: str, folder: Path, **variables: str) -> subprocess.Popen[str]:
    """What a worker starts for a run."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows.engine"],
        cwd=folder,
        env={**ENVIRONMENT, warm.VARIABLE: address, "PREFECT__RUN": run, **variables},
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
    assert os.getpgid(int(str(runs[1]))) == runs[1], "a signal to the worker's group would be two"
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
    with worker("0") as (process, address):
        started = engine(address, "waits", tmp_path)
        run = told(started)["process"]
        process.kill()
        assert started.wait(30) == 1
        assert gone(run)
    begins_cold(engine(address, "ends", tmp_path), "Connection refused")


def test_all_imported(tmp_path: Path) -> None:
    """What a worker without GPUs imports leaves its runs their environment, and able to compute."""
    with worker() as (_, address):
        runs = [engine(address, "computes", tmp_path) for _ in range(2)]
        assert [told(run)["warm"] for run in runs] == [True, True]
        assert [run.wait(60) for run in runs] == [0, 0]


def test_another_environment(address: str, tmp_path: Path) -> None:
    """Libraries read variables when they are imported: a run with others is not forked."""
    begins_cold(engine(address, "ends", tmp_path, OMP_NUM_THREADS="7"), "refused")


def begins_cold(started: subprocess.Popen[str], why: str) -> None:
    """It is Prefect's engine by itself, which misses the id of its run."""
    _, said = started.communicate(timeout=60)
    assert f"takes no run ({why}" in said.replace("[Errno 111] ", "")
    assert "Invalid flow run id" in said
    assert started.returncode == 1


@contextmanager
def asking() -> Iterator[socket.socket]:
    """The other end of an engine that has sent all that it sends."""
    ends = socket.socketpair()
    with ends[0] as engine, ends[1] as other, Path(os.devnull).open() as null:
        socket.send_fds(engine, [b"\0"], [null.fileno()] * 3)
        asked = {"folder": "/", "environment": dict(os.environ)}
        engine.sendall(json.dumps(asked).encode() + b"\n")
        yield other


def test_what_is_received() -> None:
    """Three files and the rest."""
    files: list[int] = []
    with asking() as engine:
        assert warm.received(engine, files, os.environ).folder == "/"
    assert len(files) == 3
    warm.close(files)


@pytest.mark.parametrize(
    ("changed", "value", "refusal"),
    [
        ("os.getuid", -1, PermissionError),
        ("tasks.store.code_version.__wrapped__", "new", warm.Different),
    ],
)
def test_what_is_refused(
    changed: str, value: object, refusal: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user; a run whose code is not what was imported."""
    monkeypatch.setattr(changed, lambda: value)
    files: list[int] = []
    with asking() as engine, pytest.raises(refusal):
        warm.received(engine, files, os.environ)
    warm.close(files)


def test_no_torch_where_there_are_gpus() -> None:
    """What is imported for a worker that has GPUs leaves them to its runs."""
    code = f"""
import importlib, sys
for module in {imports.EVERY_RUN!r}: importlib.import_module(module)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_not_without_asking(address: str, tmp_path: Path) -> None:
    """What is no engine is turned away, also if it says nothing, and the next one is served."""
    for said in (b"nothing of use\n", b"\0[]\n", b""):
        with warm.connected(address) as connection:
            connection.sendall(said)
            assert connection.recv(10) == b""
    assert engine(address, "ends", tmp_path).wait(30) == 0
