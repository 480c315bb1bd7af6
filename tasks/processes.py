"""Several processes of one machine that learn together: each has a GPU, or its share of the cores.

They find each other as those that torchrun starts do, so that accelerate joins them; what becomes
of their gradients is in tasks/learning/loop.py. None outlives the process that started them.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import socket
import threading
import warnings
from collections.abc import Callable, Mapping
from logging.handlers import QueueHandler
from signal import SIGKILL
from typing import Any

from tasks import progress
from tasks.errors import ConfigError, GraftError, WorkerError
from tasks.store import home, writing

SECONDS_BETWEEN_LOOKS = 0.2
DONE = "done"
_rank = 0
"""Which of those that work together this process is."""


def together(number: int, work: Callable[..., None], *arguments: Any) -> None:
    """Call `work(*arguments)` in so many processes, or, with one, in this.

    What the first of them tells, lines and steps, is told here.

    Args:
        number: how many.
        work: a function of a module, which every process imports.
        arguments: what can be pickled.

    Raises:
        ConfigError: this machine shows fewer GPUs than there are to be processes.
        GraftError: what one of them raised.
        WorkerError: one of them was killed.
    """
    if number == 1:
        work(*arguments)
        return
    import torch
    from torch.multiprocessing import start_processes
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

    check(number)
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # told by the error
    said = multiprocessing.get_context("spawn").Queue()
    joined = {
        "ACCELERATE_USE_CPU": str(torch.cuda.device_count() == 0).lower(),
        "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(number),
    }
    # As daemons they end with this process, should it be interrupted while it starts them.
    members = start_processes(
        member, (joined, said, work, arguments), nprocs=number, join=False, daemon=True
    )
    done = 0
    try:
        ended = False
        while not ended:
            ended = members.join(timeout=SECONDS_BETWEEN_LOOKS)
            done += heard(said)
    except (ProcessExitedException, ProcessRaisedException) as error:
        heard(said)  # a refusal, if it was one
        killed = [str(n) for n, one in enumerate(members.processes) if one.exitcode == -SIGKILL]
        if killed:  # whatever the others say of it
            raise WorkerError(
                f"of {number} processes that learn together, {' and '.join(killed)} was killed, "
                "perhaps for want of memory; the same command goes on from the last checkpoint"
            ) from error
        raise
    finally:
        for process in members.processes:
            process.kill()
            process.join()
    if done < number:
        raise WorkerError(
            f"of {number} processes that learn together, {number - done} were interrupted; the "
            "same command goes on from the last checkpoint"
        )


def check(number: int) -> None:
    """Whether this machine has what so many processes want.

    Raises:
        ConfigError: fewer GPUs than processes.
    """
    if number == 1:
        return
    import torch

    gpus = torch.cuda.device_count()
    if 0 < gpus < number:
        raise ConfigError(
            f"processes is {number}, but of GPUs there is {gpus}, and each wants its own "
            "(graft worker gpu --device 0 --device 1; graft up --gpus 2)"
        )


def heard(said: Any) -> int:
    """Pass on what was told; how many said that they are done.

    Raises:
        GraftError: one of them did.
    """
    done = 0
    while True:
        try:
            told = said.get_nowait()
        except queue.Empty:
            return done
        if isinstance(told, GraftError):
            raise told
        if isinstance(told, logging.LogRecord):
            if progress.logger.isEnabledFor(told.levelno):
                progress.logger.handle(told)
        elif told == DONE:
            done += 1
        else:
            for listener in progress.listeners:
                listener(*told)


def member(
    rank: int,
    joined: Mapping[str, str],
    said: Any,
    work: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    """What each process does: join the others, work, and tell."""
    import torch

    global _rank
    _rank = rank
    threading.Thread(target=end_with_parent, daemon=True).start()
    warnings.filterwarnings("ignore")  # libraries': as in the process that started this one
    threads = max(1, torch.get_num_threads() // int(joined["WORLD_SIZE"]))
    torch.set_num_threads(threads)
    os.environ |= {
        **joined,
        "LOCAL_RANK": str(rank),
        "RANK": str(rank),
        "OMP_NUM_THREADS": str(threads),  # or accelerate sets what it thinks best
    }
    if first():
        progress.logger.addHandler(QueueHandler(said))
        progress.listeners.append(
            lambda subject, step, steps, values: said.put((subject, step, steps, dict(values)))
        )
    try:
        with writing(home()):
            work(*arguments)
    except GraftError as error:
        said.put(error)
        raise
    said.put(DONE)
    torch.distributed.destroy_process_group()


def first() -> bool:
    """Whether this process, of those that work together, is the one that writes what they found."""
    return _rank == 0


def end_with_parent() -> None:
    """End this process, whatever it does, when the one that started it is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def free_port() -> int:
    """One of loopback's that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port
