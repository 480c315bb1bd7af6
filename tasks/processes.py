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
from collections.abc import Callable, Mapping
from logging.handlers import QueueHandler
from typing import Any

from tasks import progress
from tasks.errors import ConfigError, GraftError, WorkerError

SECONDS_BETWEEN_LOOKS = 0.2
DONE = "done"


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

    gpus = torch.cuda.device_count()
    if 0 < gpus < number:
        raise ConfigError(
            f"processes is {number}, and {gpus} GPUs are here; each process wants its own "
            "(graft worker gpu --device 0 --device 1; graft up --gpus 2)"
        )
    said = multiprocessing.get_context("spawn").Queue()
    joined = {
        "ACCELERATE_USE_CPU": str(gpus == 0).lower(),
        "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(number),
    }
    members = start_processes(member, (joined, said, work, arguments), nprocs=number, join=False)
    done = 0
    try:
        ended = False
        while not ended:
            ended = members.join(timeout=SECONDS_BETWEEN_LOOKS)
            done += heard(said)
    except ProcessExitedException as error:
        heard(said)
        raise WorkerError(f"of {number} processes one was lost: {error}") from error
    except ProcessRaisedException:
        heard(said)  # a refusal, if it was one
        raise
    finally:
        for process in members.processes:
            process.kill()
            process.join()
    if done < number:
        raise WorkerError(f"of {number} processes {number - done} were interrupted")


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

    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ |= {**joined, "LOCAL_RANK": str(rank), "RANK": str(rank)}
    torch.set_num_threads(max(1, torch.get_num_threads() // int(joined["WORLD_SIZE"])))
    if first():
        progress.logger.addHandler(QueueHandler(said))
        progress.listeners.append(
            lambda subject, step, steps, values: said.put((subject, step, steps, dict(values)))
        )
    try:
        work(*arguments)
    except GraftError as error:
        said.put(error)
        raise
    said.put(DONE)
    torch.distributed.destroy_process_group()


def first() -> bool:
    """Whether this process, of those that work together, is the one that writes what they found."""
    return os.environ.get("RANK", "0") == "0"


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
