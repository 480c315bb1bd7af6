"""What a pipeline takes beside its learning: starting, data, comparison, registration.

    python -m benchmarks.overhead reviews
    python -m benchmarks.overhead --rounds 5 --set training.epochs=1 reviews

Overhead is the whole wall time less the seconds of the stages that learn or answer (pretrain,
source, transfer, predict). Each way has a GRAFT_HOME of its own with the downloaded packages, in
which a first run, not counted, makes the databases while the workers get warm; before each of the
others, what the one before left to be found is removed:

ephemeral  `graft run`, which starts a Prefect server of its own
server     `graft run`, at the servers of a `graft up`
deployed   started at those servers, run by their workers: from when a worker has the run to its
           end, less the wait of what learns for the other worker
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks import provenance, store
from tasks.load import load

LEARNS = re.compile(r"\b(?:pretrain|source|transfer|predict)\s+\S.*: done in ([\d.]+) s")
GRAFT = str(Path(sys.executable).with_name("graft"))
MADE = ("artifacts", "converted", "unpacked")
"""What runs leave in GRAFT_HOME to be found by the next."""
WAYS = ("ephemeral", "server", "deployed")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pipeline", help="a pipeline of pipelines.yaml; it must have run before")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--set", metavar="PATH=VALUE", action="append", default=[], help="as graft run's"
    )
    given = parser.parse_args()
    name, overrides = given.pipeline, given.set
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for way in WAYS:
        with fresh_home() as variables, reached(way, variables) as at:
            for number in range(given.rounds + 1):
                for kept in MADE:
                    shutil.rmtree(Path(at["GRAFT_HOME"]) / kept, ignore_errors=True)
                asked = [f"seed={number}", *overrides]  # or its model would be registered already
                taken = (deployed if way == "deployed" else run)(name, asked, at)
                found[way] += [taken] if number else []
                print(f"{way}: {number} of {given.rounds} are done", file=sys.stderr)
    print(f"{given.pipeline}, {given.rounds} rounds on {provenance.hardware()}\n")
    print("| way | whole | learning | overhead | overheads |\n|---|---|---|---|---|")
    for way in WAYS:
        rests = [whole - learning for whole, learning in found[way]]
        whole, learning = (statistics.median(column) for column in zip(*found[way], strict=True))
        each = " ".join(f"{rest:.1f}" for rest in sorted(rests))
        rest = statistics.median(rests)
        print(f"| {way} | {whole:.1f} s | {learning:.1f} s | {rest:.1f} s | {each} |")


def learned(lines: Iterable[str]) -> float:
    """Seconds of the stages that learn or answer, as they told them.

    Raises:
        ValueError: none did: the run took all from the store, or says it otherwise.
    """
    told = [float(match[1]) for line in lines if (match := LEARNS.search(line))]
    if not told:
        raise ValueError("no stage learned")
    return sum(told)


def run(pipeline: str, overrides: Sequence[str], variables: dict[str, str]) -> tuple[float, float]:
    """Whole seconds of `graft run`, and those of learning."""
    started = time.monotonic()
    done = subprocess.run(
        [GRAFT, "run", pipeline, "--json", *(f"--set={one}" for one in overrides)],
        env=variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return time.monotonic() - started, learned(done.stderr.splitlines())


def deployed(
    pipeline: str, overrides: Sequence[str], variables: dict[str, str]
) -> tuple[float, float]:
    """The same of a deployed run, from when a worker has it."""
    api = variables["PREFECT_API_URL"]
    configuration = load(Path("pipelines.yaml"), pipeline, overrides).model_dump(mode="json")
    asked = {"parameters": {"name": pipeline, "pipeline": configuration}}
    deployment = ask(f"{api}/deployments/name/transfer/{pipeline}")["id"]
    parent = ask(f"{api}/deployments/{deployment}/create_flow_run", asked)["id"]
    while (state := ask(f"{api}/flow_runs/{parent}")["state"])["type"] not in (
        *("COMPLETED", "FAILED", "CRASHED", "CANCELLED"),
    ):
        time.sleep(0.5)
    if state["type"] != "COMPLETED":
        raise RuntimeError(f"the run of {pipeline} is {state['type']}: {state['message']}")
    theirs = {"flow_runs": {"parent_flow_run_id": {"any_": [parent]}}}
    children = [one["id"] for one in ask(f"{api}/flow_runs/filter", theirs)]
    waited = sum(moment(api, one, "PENDING") - moment(api, one, "SCHEDULED") for one in children)
    whole = moment(api, parent, "COMPLETED") - moment(api, parent, "PENDING")
    ours = {"logs": {"flow_run_id": {"any_": [parent, *children]}}, "limit": 200}
    lines: list[str] = []  # of a stage that the child did, the parent says no seconds
    while page := ask(f"{api}/logs/filter", {**ours, "offset": len(lines)}):
        lines += [one["message"] for one in page]
    return whole - waited, learned(lines)


def moment(api: str, run: str, state: str) -> float:
    """When a flow run came into a state first, in seconds."""
    states = ask(f"{api}/flow_run_states/?flow_run_id={run}")
    times = [one["timestamp"] for one in states if one["type"] == state]
    return min(datetime.fromisoformat(one).timestamp() for one in times)


@contextmanager
def fresh_home() -> Iterator[dict[str, str]]:
    """An environment whose GRAFT_HOME has nothing but the packages of this one."""
    with TemporaryDirectory() as folder:
        packages = store.home() / "packages"
        packages.mkdir(parents=True, exist_ok=True)
        (Path(folder) / "packages").symlink_to(packages)
        variables = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "MLFLOW_", "GRAFT_"))
        }
        yield {**variables, "GRAFT_HOME": folder, "COLUMNS": "200"}


@contextmanager
def reached(way: str, variables: dict[str, str]) -> Iterator[dict[str, str]]:
    """The environment of who goes this way: of `graft up`'s clients, except for the ephemeral."""
    if way == "ephemeral":
        yield variables
        return
    process = subprocess.Popen(
        [GRAFT, "up"], env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout
        told = dict(variables)
        for line in process.stdout:
            if match := re.match(r"export (\w+)=(\S+)", line):
                told[match[1]] = match[2]
            if line.startswith("Logs are in"):
                break
        else:
            raise RuntimeError("graft up ended")
        yield told
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)


def ask(url: str, body: Any = None) -> Any:
    """What the server answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main()
