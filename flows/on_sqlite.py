"""Prefect's command where its database is SQLite, by `graft up`.

python -P -m flows.on_sqlite server start ...       as `prefect server start ...`

Under load, Prefect's server would refuse requests and stand still for a minute:

- A transaction that reads first and then wants to write is refused at once ("database is locked")
  where another has written in between. Half of Prefect's begin that way, and a worker that is
  refused six times gives a run up for crashed. Here they have the lock from their beginning, as
  those that Prefect begins `with_for_update`, and wait for it up to 60 s.
- A refused statement stays in a cursor that SQLAlchemy 2.0 leaves open for aiosqlite, and is freed
  by the collector, which waits for the cursor's connection. Where that happens in the event loop's
  thread while the connection waits for a lock of one of the loop's own transactions, nobody goes on
  until SQLite gives up. Here garbage is collected in a thread of its own, and only garbage waits.

With PostgreSQL there is neither, and its driver is not to be finalized in another thread.
"""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect.server.database.configurations import AioSqliteConfiguration
    from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

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


def lock_first() -> None:
    """From now on, Prefect's transactions have SQLite's one lock for writers when they begin."""
    from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration

    begin = AioSqliteConfiguration.begin_transaction

    @asynccontextmanager
    async def begin_locked(
        self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
    ) -> AsyncGenerator[AsyncSessionTransaction, None]:
        async with begin(self, session, with_for_update=True) as transaction:
            await session.connection()  # the lock is had
            ours = SQLITE_BEGIN_MODE.set("DEFERRED")  # of another session inside, which only reads
            try:
                yield transaction
            finally:
                SQLITE_BEGIN_MODE.reset(ours)

    AioSqliteConfiguration.begin_transaction = begin_locked  # type: ignore[method-assign]


def prepare() -> None:
    """Both, before anything is served."""
    collect_apart()
    lock_first()


def main() -> None:
    """Be `prefect`."""
    prepare()
    from prefect.cli import app

    app()


if __name__ == "__main__":
    main()
