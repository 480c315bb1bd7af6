"""What a worker starts for each run: has it done by the warm process of its worker.

python -m flows.engine      in the environment that Prefect's workers give a run

Whatever happens to this process happens to the run, and the other way round. Where the warm
process does not take it, it is the run itself, as `python -m prefect.engine` is.
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
            leave(handed_over(warm.connected(address)))
        except OSError as error:
            print(f"the worker's warm process takes no run ({error}): cold", file=sys.stderr)
    sys.argv[1:] = []
    runpy.run_module(warm.ENGINE, run_name="__main__", alter_sys=True)


def handed_over(connection: socket.socket) -> int:
    """Have it done there; its exit code, negative the signal that ended it.

    Raises:
        OSError: it was not begun.
    """
    asked = {"folder": os.getcwd(), "environment": dict(os.environ)}
    socket.send_fds(connection, [b"\0"], [0, 1, 2])
    connection.sendall(json.dumps(asked).encode() + b"\n")

    def forward(number: int, _: object) -> None:
        """Once: from here on it is on its way."""
        signal.signal(number, signal.SIG_IGN)
        connection.sendall(bytes([number]))

    with connection.makefile("rb") as told:
        first = told.readline()
        if not first:
            raise ConnectionError("refused")
        if first != warm.BEGUN:
            return int(first)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal; the worker has it, too
        signal.signal(signal.SIGTERM, forward)
        try:
            return int(told.readline() or 1)
        except OSError:  # killed
            return 1


def leave(code: int) -> None:
    """End as the run did."""
    if code < 0:
        with suppress(OSError):  # of those that cannot be handled anyhow
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
