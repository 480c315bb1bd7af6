"""`graft worker`: a Prefect worker whose runs are processes of this machine, set up for Graft."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from flows import slots, warm
from tasks import store

HEARTBEAT = 30
"""Seconds between two signs of life of a run; Prefect takes no less."""
PARENTS = 10
"""Runs at once on a pool without devices: most wait for others, or score what these answered."""


def start(pool: str, devices: Sequence[str], limit: int | None) -> None:
    """Become the worker; does not return.

    Args:
        pool: the work pool it takes runs from.
        devices: GPUs, as CUDA_VISIBLE_DEVICES names them; each run has all of them to itself, and
            no other worker's run on this machine has one of them meanwhile. None: the runs see no
            GPU.
        limit: how many runs at once; by default one where there are devices, else `PARENTS`.
    """
    names = [f"gpu:{socket.gethostname()}:{device}" for device in devices]
    slots.create(names)
    os.environ.update(environment(names, devices))
    if warm.supported():
        os.environ[warm.VARIABLE] = warm.start(devices)
    executable = str(Path(sys.executable).with_name("prefect"))
    at_once = limit or (1 if devices else PARENTS)
    name = f"{socket.gethostname()} {' '.join([pool, *devices])}"
    os.execv(
        executable,
        [
            *(executable, "worker", "start", "--pool", pool, "--type", "process"),
            *("--limit", str(at_once), "--name", name),
        ],
    )


def environment(names: Sequence[str], devices: Sequence[str]) -> dict[str, str]:
    """What the runs of a worker must find, and cannot know themselves."""
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(devices),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        slots.VARIABLE: ",".join(names),
        "GRAFT_HOME": str(store.home()),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT),
        "PREFECT_WORKER_QUERY_SECONDS": os.environ.get("PREFECT_WORKER_QUERY_SECONDS", "2"),
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
        "PYTHONSAFEPATH": "1",  # a project's own folder `flows` is not Graft's
    }
