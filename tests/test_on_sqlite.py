"""Prefect's server on SQLite: nobody is refused the lock, and nothing refused holds up others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FREES = """
import gc, sqlite3, sys, threading, time

from flows import on_sqlite

def connected():
    found = sqlite3.connect(sys.argv[1], check_same_thread=False, isolation_level=None, timeout=0)
    found.execute("PRAGMA journal_mode = WAL").fetchall()
    return found

class Cycle:
    def __init__(self, held):
        self.held, self.itself = held, self

on_sqlite.collect_apart()
one, other = connected(), connected()
one.execute("CREATE TABLE t(x)")
other.execute("BEGIN")
other.execute("SELECT * FROM t").fetchall()
one.execute("INSERT INTO t VALUES (1)")
refused = other.cursor()
try:
    refused.execute("INSERT INTO t VALUES (2)")
except sqlite3.OperationalError as error:
    print(error)
other.execute("ROLLBACK")

one.execute("BEGIN IMMEDIATE")
other.execute("PRAGMA busy_timeout = 8000").fetchall()

def waits():
    try:
        other.execute("INSERT INTO t VALUES (3)")
        print("written")
    except sqlite3.OperationalError:
        print("given up")

thread = threading.Thread(target=waits)
thread.start()
time.sleep(0.5)
Cycle(refused)
del refused
ends = time.monotonic() + 3
while time.monotonic() < ends:
    [Cycle(None) for _ in range(1000)]
    time.sleep(0.01)
one.execute("COMMIT")
thread.join()
left = any(isinstance(found, sqlite3.Cursor) for found in gc.get_objects())
print("left" if left else "collected")
"""


def test_a_refused_statement(tmp_path: Path) -> None:
    """A transaction goes on while the statement's connection waits for its lock. Collected in its
    thread, that statement would keep it until the connection gives up."""
    done = subprocess.run(
        [sys.executable, "-c", FREES, str(tmp_path / "base.db")],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split("\n") == ["database is locked", "written", "collected", ""]


LOCKS = """
import asyncio, sys

import sqlalchemy as sa
from prefect.server.database.configurations import AioSqliteConfiguration

from flows import on_sqlite

async def count_and_add(database, engine):
    session = await database.session(engine)
    async with session, database.begin_transaction(session):
        await session.execute(sa.text("SELECT count(*) FROM t"))
        await asyncio.sleep(0.5)
        await session.execute(sa.text("INSERT INTO t VALUES (1)"))

async def main(path):
    database = AioSqliteConfiguration(f"sqlite+aiosqlite:///{path}")
    engine = await database.engine()
    async with engine.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE t(x)"))
    both = [count_and_add(database, engine) for _ in range(2)]
    for error in await asyncio.gather(*both, return_exceptions=True):
        print(error and error.orig)

if sys.argv[2] == "prepared":
    on_sqlite.prepare()
asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("server", "said"),
    [("as it is", ["None", "database is locked"]), ("prepared", ["None", "None"])],
)
def test_two_that_read_and_then_write(server: str, said: list[str], tmp_path: Path) -> None:
    """One of Prefect's would be refused, however long it is ready to wait."""
    done = subprocess.run(
        [sys.executable, "-c", LOCKS, str(tmp_path / "base.db"), server],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert sorted(done.stdout.splitlines()) == said
