"""A process that has imported what runs need, and forks one process for each run of its worker.

Importing takes a run longer than all else that it does beside learning. `graft worker` starts this
beside the worker, where it imports once; `flows/engine.py`, which the worker starts for each run,
has the run done here:

engine → here    a byte with its stdin, stdout and stderr; {"folder": …, "environment": {…}} and a
                 newline. Once its run has begun, a byte for each signal it gets. If it is gone, its
                 run is killed.
here → engine    "begun" and a newline; later the run's exit code, negative the signal that ended
                 it, and a newline. The end of the file before that: it may do the run by itself.

Linux alone tells a process of another's end as this needs it; elsewhere `supported` says no.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
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

from pydantic import BaseModel, ValidationError

from flows import imports
from tasks import store

VARIABLE = "GRAFT_WARM"
"""Where a worker's runs find the address."""
ENGINE = "prefect.engine"
"""The module that is a run; PREFECT__FLOW_RUN_ID says which."""
BEGUN = b"begun\n"
THEIR_OWN = ("PREFECT", VARIABLE)
"""Variables whose names begin so may differ from run to run: nothing reads them once for all."""
SILENCE = 5.0
"""Seconds that an engine has to say what it wants."""
PR_SET_PDEATHSIG = 1
"""Of prctl(2)."""


class Asked(BaseModel):
    """What an engine wants done."""

    folder: str
    environment: dict[str, str]


class Different(Exception):
    """A run that must not be forked from this process."""


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
        Its address; it answers there once all is imported.
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
        OSError: it is gone, or has not imported all yet.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(f"\0{address}")
    check_user(connection)
    return connection


def main() -> None:
    """Import, then fork until the worker ends."""
    parent, address, *modules = sys.argv[1:]
    end_with(int(parent))
    environment = dict(os.environ)  # of the worker; imports add to it
    for number in (signal.SIGINT, signal.SIGTERM):  # for the worker, which ends its runs first
        signal.signal(number, signal.SIG_IGN)
    for module in modules:
        importlib.import_module(module)
    store.code_version()
    gc.collect()
    gc.freeze()  # what all runs share is not gone through again by each
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{address}")
        listener.listen()  # not before: a run that finds nobody does not wait
        serve(listener, environment)
    # From here on this is a run.
    sys.argv[1:] = []
    sys.modules.pop(ENGINE, None)
    runpy.run_module(ENGINE, run_name="__main__", alter_sys=True)


def end_with(parent: int) -> None:
    """Have this process killed when the one that started it ends, however it does."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def serve(listener: socket.socket, environment: Mapping[str, str]) -> None:
    """Fork for whoever asks; returns in the forked process, which is then as the engine was.

    Args:
        listener: where they ask.
        environment: the worker's, which they have too.
    """
    here = os.getpid()
    with selectors.DefaultSelector() as waiting:
        waiting.register(listener, selectors.EVENT_READ)
        while True:
            (key, _), *_ = waiting.select()
            run: Run | None = key.data
            if run is None:
                engine, _ = listener.accept()
                files: list[int] = []
                try:
                    asked = received(engine, files, environment)
                    process = os.fork()
                except (OSError, ValueError, Different) as error:
                    print(f"a run that is not begun here: {error}", file=sys.stderr, flush=True)
                    close([engine.detach(), *files])
                    continue
                if process == 0:
                    end_with(here)
                    others = {one.data for one in waiting.get_map().values() if one.data}
                    close(file for one in others for file in (one.end, one.engine.detach()))
                    become(asked, files)
                    with engine:
                        engine.sendall(BEGUN)
                    return
                close(files)
                run = Run(process, os.pidfd_open(process), engine)
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


def received(engine: socket.socket, files: list[int], environment: Mapping[str, str]) -> Asked:
    """What an engine with this environment asks for; its files are added to `files`.

    Raises:
        OSError: it is another user's, gone again, or silent.
        ValueError: it is no engine.
        Different: what was imported here is not what its run would import.
    """
    check_user(engine)
    engine.settimeout(SILENCE)
    files += socket.recv_fds(engine, 1, 3)[1]
    with engine.makefile("rb") as told:
        line = told.readline()
    engine.settimeout(None)
    try:
        asked = Asked.model_validate_json(line)
    except ValidationError:  # which quotes what it was given, passwords too
        raise ValueError("it is no engine") from None
    if len(files) != 3:
        raise ValueError(f"it sent {len(files)} files")
    ours, theirs = (
        {name: value for name, value in one.items() if not name.startswith(THEIR_OWN)}
        for one in (environment, asked.environment)
    )
    if ours != theirs:
        names = sorted(dict(ours.items() ^ theirs.items()))
        raise Different(f"its environment has another {', '.join(names)}")
    if store.code_version.__wrapped__() != store.code_version():
        raise Different("Graft or its libraries have changed since they were imported")
    return asked


def check_user(other: socket.socket) -> None:
    """Refuse to speak with another user's process.

    Raises:
        PermissionError: it is one.
    """
    credentials = other.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _, user, _ = struct.unpack("3i", credentials)
    if user != os.getuid():
        raise PermissionError(f"it is user {user}'s")


def close(files: Iterable[int]) -> None:
    """Close them all."""
    for file in files:
        os.close(file)


def heard(run: Run) -> bytes:
    """The numbers of the signals that its engine had; none: it is gone."""
    try:
        return run.engine.recv(64)
    except OSError:
        return b""


def become(asked: Asked, files: Sequence[int]) -> None:
    """Take over the engine's files, folder and environment."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    close(files)
    os.setpgid(0, 0)  # a signal to the worker's group comes through the engine alone
    os.chdir(asked.folder)
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
