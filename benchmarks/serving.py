"""What clients of `graft serve` see while the champion changes.

    python -m benchmarks.serving reviews promote
    python -m benchmarks.serving --clients 1 reviews rollback --to 1

Starts `graft serve MODEL`, lets clients ask it without a pause, each one text of the champion's
frozen test rows at a time, runs `graft promote MODEL` or `graft rollback MODEL --to 1` beside them,
and prints how long they waited before, during and after.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks import promote, provenance, registry, tracking
from tasks.load import resolve
from tasks.training import read_rows

JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Answer:
    """What a client got, and when."""

    asked: float
    """Seconds on the monotonic clock."""
    took: float
    status: int
    """0 where there was none."""
    by: str
    """NAME/VERSION."""


@dataclass(frozen=True)
class Phase:
    """A part of the measurement."""

    name: str
    begin: float
    end: float

    def line(self, answers: Sequence[Answer]) -> str:
        """Of the requests that were asked in it."""
        own = [answer for answer in answers if self.begin <= answer.asked < self.end]
        p50, p95, most = 1000 * np.quantile([answer.took for answer in own], [0.5, 0.95, 1])
        failed = sum(answer.status != 200 for answer in own)
        seconds = self.end - self.begin
        by = ", ".join(sorted({answer.by.rpartition("/")[2] for answer in own}))
        rate = len(own) / seconds
        return (
            f"| {self.name} | {seconds:.1f} | {len(own)} | {failed} | {rate:.0f} | {p50:.0f} "
            f"| {p95:.0f} | {most:.0f} | {by} |"
        )


def main() -> None:
    options = parse()
    version = registry.alias_version(options.model, "champion")
    assert version is not None, "no champion"
    bodies = texts(options.model, version)
    with (
        served(options.model, options.precision) as at,
        clients(at, options.clients, bodies) as answers,
    ):
        time.sleep(3)  # all connected
        start = time.monotonic()
        time.sleep(options.seconds)
        change = time.monotonic()
        subprocess.run(graft(options.change[0], options.model, *options.change[1:]), check=True)
        changed = time.monotonic()
        told = until_another(at, version)
        time.sleep(options.seconds)
        end = time.monotonic()
    phases = [
        Phase("before", start, change),
        Phase(f"during, {options.change[0]}", change, max(changed, told)),
        Phase("after", max(changed, told), end),
    ]
    old = sum(a.by.endswith(f"/{version}") for a in answers if a.asked > told)
    print(f"\n{options.clients} clients, {provenance.hardware()}\n")
    print("| phase | s | requests | failed | requests/s | p50 ms | p95 ms | most | version |")
    print("|---|---|---|---|---|---|---|---|---|")
    print("\n".join(phase.line(answers) for phase in phases))
    print(f"\nAnswers of the old version to who asked after /ready told of the new one: {old}.")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving")
    parser.add_argument("model", help="a registered model with a champion")
    parser.add_argument("change", nargs=argparse.REMAINDER, help="promote, or rollback --to 1")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20, help="before, and after")
    parser.add_argument("--precision", default="float32", help="of graft serve")
    return parser.parse_args()


def graft(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).parent / "graft"), *arguments]


def texts(model: str, version: str) -> list[dict[str, Any]]:
    """The frozen test rows of a version, each as the body of a request."""
    recorded = tracking.recorded_configuration(registry.run_of(model, version))[1]
    wanted = resolve(recorded).application.request
    rows = read_rows(promote.recorded(model, version, "test.parquet"))
    return [{"dataframe_records": [{column: row[column] for column in wanted}]} for row in rows]


@contextmanager
def served(model: str, precision: str) -> Iterator[str]:
    """`graft serve` at a free port, ready; its host and port."""
    process = subprocess.Popen(
        graft("serve", model, "--port", "0", "--precision", precision),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1].removeprefix("http://")
    finally:
        process.terminate()
        process.wait(60)


def ask(at: str, body: Any = None, path: str = "/invocations") -> tuple[int, str, Any]:
    """Status, who answered, and the answer; without a body it is a GET."""
    connection = http.client.HTTPConnection(at, timeout=60)
    try:
        return asked(connection, body, path)
    finally:
        connection.close()


def asked(connection: http.client.HTTPConnection, body: Any, path: str) -> tuple[int, str, Any]:
    """As `ask`, on a connection that stays."""
    if body is None:
        connection.request("GET", path)
    else:
        connection.request("POST", path, json.dumps(body), JSON)
    answer = connection.getresponse()
    return answer.status, answer.getheader("x-graft-model", ""), json.load(answer)


@contextmanager
def clients(
    at: str, count: int, bodies: Sequence[Any], pause: float = 0.0
) -> Iterator[Sequence[Answer]]:
    """So many ask meanwhile, each one body after the other; what they got."""
    found: list[Answer] = []
    over = threading.Event()

    def go_on(first: int) -> None:
        connection, number = http.client.HTTPConnection(at, timeout=60), first
        while not over.wait(pause):
            started = time.monotonic()
            try:
                status, by, _ = asked(connection, bodies[number % len(bodies)], "/invocations")
            except (OSError, http.client.HTTPException) as error:
                status, by = 0, repr(error)
                connection.close()
            found.append(Answer(started, time.monotonic() - started, status, by))
            number += count
        connection.close()

    threads = [threading.Thread(target=go_on, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        for thread in threads:
            thread.join(60)


def until_another(at: str, version: str) -> float:
    """When another version was told to be served."""
    deadline = time.monotonic() + 60
    while ask(at, path="/ready")[2]["version"] == version:
        assert time.monotonic() < deadline, f"version {version} is served still, after a minute"
        time.sleep(0.05)
    return time.monotonic()


if __name__ == "__main__":
    main()
