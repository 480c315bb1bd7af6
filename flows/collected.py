"""Prefect's command, with garbage collected in a thread of its own: what `graft up` serves with.

python -P -m flows.collected server start ...       as `prefect server start ...`

On SQLite, Prefect's server would stand still for a minute under load. A statement refused by SQLite
("database is locked") stays in a cursor that SQLAlchemy 2.0 leaves open for aiosqlite, and is freed
by the collector, which waits for the cursor's connection. Where that happens in the event loop's
thread while the connection waits for a lock of one of the loop's own transactions, nobody goes on
until SQLite gives up, 60 s later. In another thread it waits and harms no one.
"""

from __future__ import annotations

import gc
import itertools
import threading
import time

PERIOD = 1.0
"""Seconds between two collections of what is young."""
WHOLE = 30
"""Every which of them is of everything."""


def collect_apart() -> None:
    """From now on, collect in a thread of its own and nowhere else in this process."""
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
