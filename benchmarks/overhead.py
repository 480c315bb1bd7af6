"""What a pipeline costs beside its learning: wall time less the seconds in which something learns.

    python -m benchmarks.overhead

The pipeline `editorials`, shrunk, in three ways, each with a store of its own: `graft run` with a
Prefect server of its own; `graft run` at a server that is there; and deployed, on two workers,
whose waiting for their next look at the server is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GRAFT = str(Path(sys.executable).with_name("graft"))
LEARNING = ("pretrain", "source", "transfer", "predict")
"""The stages in which something learns, or answers."""
SHRUNK = ("sources.movies.labelled=500", "source_training.epochs=2", "training.epochs=10")
DONE = re.compile(r"(?P<stage>\w+)\s+.*: done in (?P<seconds>[\d.]+) s")
NEVER_ENDS = 900.0


def seconds_of_learning(said: str) -> float:
    """From the lines of a run: `source    movies: done in 12.3 s`."""
    found = (DONE.search(line) for line in said.splitlines())
    return sum(float(m["seconds"]) for m in found if m and m["stage"] in LEARNING)


def run_here(variables: Mapping[str, str]) -> tuple[float, float]:
    """Wall time and learning of `graft run`."""
    overrides = [part for one in SHRUNK for part in ("--set", one)]
    started = time.monotonic()
    done = subprocess.run(
        [GRAFT, "run", "editorials", *overrides],
        cwd=ROOT,
        env={**os.environ, **variables, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
    )
    return time.monotonic() - started, seconds_of_learning(done.stdout)


@contextmanager
def up(home: Path) -> Iterator[dict[str, str]]:
    """`graft up`, and what its clients find in their environment."""
    log = home.parent / "up.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [GRAFT, "up"],
            cwd=ROOT,
            env={**os.environ, "GRAFT_HOME": str(home)},
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    try:
        while "Ctrl-C" not in log.read_text():
            if process.poll() is not None:
                sys.exit(log.read_text())
            time.sleep(0.5)
        yield dict(re.findall(r"export (\w+)=(\S+)", log.read_text()))
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def run_deployed(api: str) -> tuple[float, float]:
    """Wall time and learning of a deployed run, the workers' waiting left out."""
    deployment = ask(f"{api}/deployments/name/transfer/editorials")
    pipeline = deployment["parameters"]["pipeline"]
    pipeline["sources"]["movies"]["labelled"] = 500
    pipeline["source_training"]["epochs"], pipeline["training"]["epochs"] = 2, 10
    parameters = {"name": "editorials", "pipeline": pipeline}
    url = f"{api}/deployments/{deployment['id']}/create_flow_run"
    identifier = ask(url, {"parameters": parameters})["id"]
    deadline = time.monotonic() + NEVER_ENDS
    while (run := ask(f"{api}/flow_runs/{identifier}"))["state"]["type"] != "COMPLETED":
        if run["state"]["type"] in ("FAILED", "CRASHED") or time.monotonic() > deadline:
            sys.exit(f"the deployed run ended so: {run['state']}")
        time.sleep(0.5)
    body = {"flows": {"name": {"any_": ["learn"]}}}
    (learned,) = ask(f"{api}/flow_runs/filter", body)
    waited = sum(polled(api, one["id"]) for one in (run, learned))
    lines = {"logs": {"flow_run_id": {"any_": [learned["id"]]}}, "limit": 200}
    said = "\n".join(line["message"] for line in ask(f"{api}/logs/filter", lines))
    wall = moment(run["end_time"]) - moment(run["created"])
    return wall - waited, seconds_of_learning(said)


def polled(api: str, run: str) -> float:
    """Seconds between a run's being due and a worker's taking it."""
    states = ask(f"{api}/flow_run_states/?flow_run_id={run}")
    at = {state["name"]: moment(state["timestamp"]) for state in states}
    return at["Pending"] - at["Scheduled"]


def moment(text: str) -> float:
    """Seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()


def ask(url: str, body: Mapping[str, Any] | None = None) -> Any:
    """JSON from a server."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def home(base: Path, name: str, packages: Path) -> Path:
    """A store of its own; what is downloaded is shared."""
    made = base / name / "home"
    made.mkdir(parents=True)
    (made / "packages").symlink_to(packages)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        base, packages = Path(folder), Path(folder) / "packages"
        packages.mkdir()
        run_here(
            {"GRAFT_HOME": str(home(base, "first", packages))}
        )  # downloads, and is not counted
        print("| | wall s | learning s | overhead s |\n|---|---|---|---|")
        for number in range(rounds):
            alone = home(base, f"alone-{number}", packages)
            tell("graft run", *run_here({"GRAFT_HOME": str(alone)}))
            with up(home(base, f"up-{number}", packages)) as found:
                there = home(base, f"there-{number}", packages)
                variables = {"GRAFT_HOME": str(there), "PREFECT_API_URL": found["PREFECT_API_URL"]}
                tell("graft run at a server", *run_here(variables))
                tell("deployed", *run_deployed(found["PREFECT_API_URL"]))


def tell(way: str, wall: float, learning: float) -> None:
    print(f"| {way} | {wall:.1f} | {learning:.1f} | {wall - learning:.1f} |", flush=True)


if __name__ == "__main__":
    main()
