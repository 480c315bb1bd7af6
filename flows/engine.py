"""What a worker starts for each run: has it done by the warm process of its worker.

python -m flows.engine      in the environment that Prefect's workers give a run

Whatever happens to this process happens to the run, and the other way round. Without a warm
process it is the run itself, as `python -m prefect.engine` is.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import sys
from contextlib import suppress

from flows import warm


def main() -> None:
    """Be, or wait for, a run."""
    if address := os.environ.get(warm.VARIABLE):
        try:
            connection = warm.connected(address)
        except OSError as error:
            print(f"the worker's warm process is gone ({error}); starting cold", file=sys.stderr)
        else:
            leave(handed_over(connection))
    sys.argv[1:] = []
    runpy.run_module(warm.ENGINE, run_name="__main__", alter_sys=True)


def handed_over(connection: socket.socket) -> int:
    """Have it done there; its exit code, negative the signal that ended it."""
    asked = {"folder": os.getcwd(), "environment": dict(os.environ)}
    socket.send_fds(connection, [b"\0"], [0, 1, 2])
    connection.sendall(json.dumps(asked).encode() + b"\n")
    signal.signal(signal.SIGTERM, lambda number, _: connection.sendall(bytes([number])))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal; the run has it, too
    with connection.makefile("rb") as told:
        return int(told.readline() or 1)


def leave(code: int) -> None:
    """End as the run did."""
    if code < 0:
        with suppress(OSError):  # of those that cannot be handled anyhow
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
