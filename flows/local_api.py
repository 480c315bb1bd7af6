"""Prefect's API on loopback, for as long as the process that started it lives, however it ends.

python -m flows.local_api PORT      reads its standard input, a pipe that nobody writes to:
                                    it closes when the other end's process is gone
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from flows import on_sqlite


def end_with_parent() -> None:
    """Wait for the pipe to close, then stop as on a terminate signal."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Serve."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    on_sqlite.prepare()
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="error",
        lifespan="on",
    )


if __name__ == "__main__":
    main()
