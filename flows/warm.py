"""A process that has imported what runs need, and forks one process for each run of its worker.

Importing takes a run longer than all else that it does beside learning. `graft worker` starts this
beside the worker, where it imports once; `flows/engine.py`, which the worker starts for each run,
has the run done here:

engine → here    a byte with its stdin, stdout and stderr; {"folder": …, "environment": {…}} and a
                 newline; later on a byte for each signal it gets. If it is gone, its run is killed.
here → engine    the run's exit code, negative the signal that ended it, and a newline.

Linux alone tells a process of another's end as this needs it; elsewhere `supported` says no.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from flows import imports

VARIABLE = "GRAFT_WARM"
"""Where a worker's runs find the address."""
ENGINE = "prefect.engine"
"""The module that is a run; PREFECT__FLOW_RUN_ID says which."""
PR_SET_PDEATHSIG = 1
"""Of prctl(2)."""


@dataclass(frozen=True)
class Asked:
    """What an engine wants done."""

    engine: socket.socket
    files: Sequence[int]
    """Its stdin, stdout and stderr."""
    folder: str
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """A process forked for a run, and the engine that waits for it."""

    process: int
    end: int
    """A file that is readable once it has ended."""
    engine: socket.socket


def supported() -> bool:
    """Whether this machine can do it."""
    return sys.platform == "linux"


def start(devices: Sequence[str]) -> str:
    """Start it beside this process, with which it ends.

    Args:
        devices: the worker's.

    Returns:
        Its address, at which it answers once all is imported.
    """
    address = f"graft-{os.getpid()}-{os.urandom(8).hex()}"
    modules: Sequence[str] = imports.EVERY_RUN
    if not devices:  # a process forked after torch has looked for GPUs cannot use them
        modules = (*modules, *imports.DATA, *imports.MODELS)
    command = [sys.executable, "-P", "-m", "flows.warm", str(os.getpid()), address, *modules]
    subprocess.Popen(command, stdin=subprocess.DEVNULL)
    return address


def connected(address: str) -> socket.socket:
    """A connection to it.

    Raises:
        OSError: it is gone.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(f"\0{address}")
    return connection


def main() -> None:
    """Import, then fork until the worker ends."""
    parent, address, *modules = sys.argv[1:]
    end_with(int(parent))
    for number in (signal.SIGINT, signal.SIGTERM):  # for the worker, which ends its runs first
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{address}")
        listener.listen()
        for module in modules:
            importlib.import_module(module)
        from tasks import store

        store.code_version()  # of the code that is now imported
        gc.collect()
        gc.freeze()  # what all runs share is not gone through again by each
        serve(listener)
    # From here on this is a run.
    sys.argv[1:] = []
    runpy.run_module(ENGINE, run_name="__main__", alter_sys=True)


def end_with(parent: int) -> None:
    """Have this process killed when the one that started it ends, however it does."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def serve(listener: socket.socket) -> None:
    """Fork for whoever asks; returns in the forked process, which is then as the engine was."""
    here = os.getpid()
    with selectors.DefaultSelector() as waiting:
        waiting.register(listener, selectors.EVENT_READ)
        while True:
            (key, _), *_ = waiting.select()
            run: Run | None = key.data
            if run is None:
                if (asked := received(listener)) is None:
                    continue
                try:
                    process = os.fork()
                except OSError as error:  # no memory
                    refuse(asked.engine, error)
                    continue
                if process == 0:
                    end_with(here)
                    close(one.data for one in waiting.get_map().values() if one.data)
                    become(asked)
                    return
                for given in asked.files:
                    os.close(given)
                run = Run(process, os.pidfd_open(process), asked.engine)
                waiting.register(run.end, selectors.EVENT_READ, run)
                waiting.register(run.engine, selectors.EVENT_READ, run)
            elif key.fd == run.end:
                for file in (run.end, run.engine):
                    if file in waiting.get_map():
                        waiting.unregister(file)
                finish(run)
            elif signals := heard(run):
                for number in signals:
                    os.kill(run.process, number)  # not waited for yet, so its number is its own
            else:
                os.kill(run.process, signal.SIGKILL)
                waiting.unregister(run.engine)


def received(listener: socket.socket) -> Asked | None:
    """What the next engine asks for; None: it is another user's, or is gone again."""
    engine, _ = listener.accept()
    credentials = engine.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _, user, _ = struct.unpack("3i", credentials)
    try:
        if user != os.getuid():
            raise PermissionError(f"user {user}")
        _, files, *_ = socket.recv_fds(engine, 1, 3)
        with engine.makefile("rb") as told:
            asked = json.loads(told.readline())
    except (OSError, ValueError) as error:
        refuse(engine, error)
        return None
    return Asked(engine, files, asked["folder"], asked["environment"])


def refuse(engine: socket.socket, error: Exception) -> None:
    """Leave an engine without its run; it ends, and says that it failed."""
    print(f"a run that was not begun: {error}", file=sys.stderr, flush=True)
    engine.close()


def heard(run: Run) -> bytes:
    """The numbers of the signals that its engine had; none: it is gone."""
    try:
        return run.engine.recv(64)
    except OSError:
        return b""


def close(runs: Iterable[Run]) -> None:
    """What belongs to other runs."""
    for run in set(runs):
        os.close(run.end)
        run.engine.close()


def become(asked: Asked) -> None:
    """Take over the engine's files, folder and environment."""
    asked.engine.close()
    for number, file in enumerate(asked.files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(asked.folder)
    os.environ.clear()
    os.environ.update(asked.environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()  # Prefect reads its environment when it is imported


def finish(run: Run) -> None:
    """Tell the engine how its run ended."""
    _, status = os.waitpid(run.process, 0)
    os.close(run.end)
    with run.engine as engine, suppress(OSError):  # it may be gone
        engine.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
