"""Prefect's command, with garbage collected in a thread of its own: for SQLite, by `graft up`.

python -P -m flows.collected server start ...       as `prefect server start ...`

On SQLite, Prefect's server would stand still for a minute under load. A statement refused by SQLite
("database is locked") stays in a cursor that SQLAlchemy 2.0 leaves open for aiosqlite, and is freed
by the collector, which waits for the cursor's connection. Where that happens in the event loop's
thread while the connection waits for a lock of one of the loop's own transactions, nobody goes on
until SQLite gives up, 60 s later. In another thread only garbage waits. With PostgreSQL there is no
such wait, and its driver is not to be finalized in another thread.
"""

from __future__ import annotations

import gc
import itertools
import threading
import time

PERIOD = 1.0
"""Seconds between two collections of what is young."""
WHOLE = 30
"""Every 30th collection is a full one."""


def collect_apart() -> None:
    """From now on, collect by itself in a thread of its own only."""
    gc.disable()
    threading.Thread(target=collect, name="collector", daemon=True).start()


def collect() -> None:
    """For as long as the process lives."""
    for turn in itertools.count(1):
        time.sleep(PERIOD)
        gc.collect(1 if turn % WHOLE else 2)


def main() -> None:
    """Be `prefect`."""
    collect_apart()
    from prefect.cli import app

    app()


if __name__ == "__main__":
    main()
