"""A toy project that is up: servers, deployments and workers, as `graft up` starts them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from tests.project import LOCKED, PIPELINES, ask, command, environment, write_project

PATIENCE = 600.0
ONE_AT_A_TIME = Path(tempfile.gettempdir()) / "graft-up-in-tests.lock"
SLOW = PIPELINES.partition("\n")[2].replace("  toy:", "  slow:")
SLOW = SLOW.replace(
    "{epochs: 2, learning_rate: 1.0e-3, checkpoint_every: 5}",
    "{epochs: 600, checkpoint_every: 20}",
)
assert "epochs: 600" in SLOW
SLOW = SLOW.replace("model: toy", "model: slow")
"""A pipeline that trains for about a minute."""


@dataclass(frozen=True)
class Operated:
    """Where everything is."""

    folder: Path
    home: Path
    prefect: str
    """The API's address."""
    mlflow: str

    @property
    def variables(self) -> dict[str, str]:
        """What commands at it find in their environment."""
        known = {"PREFECT_API_URL": self.prefect, "MLFLOW_TRACKING_URI": self.mlflow}
        return {**environment(self.home), **known}

    def graft(self, *arguments: str) -> str:
        """What the command prints."""
        done = subprocess.run(
            command(*arguments),
            cwd=self.folder,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=6 * LOCKED,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def declare(self, text: str) -> None:
        """Pipelines in the project's file."""
        (self.folder / "pipelines.yaml").write_text(text, encoding="utf-8")

    def start(self, deployment: str, **parameters: Any) -> str:
        """Start a deployment as the UI's form does; the flow run's id."""
        found = self.get(f"deployments/name/{deployment}")
        url = f"{self.prefect}/deployments/{found['id']}/create_flow_run"

        def made() -> Any:
            try:
                return ask(url, {"parameters": parameters})["id"]
            except urllib.error.HTTPError as error:
                if error.code != 503:  # a lock that was not had, which Prefect's clients retry
                    raise
                return None

        return str(until(made, f"a run of {deployment}"))

    def get(self, path: str) -> Any:
        """What the server has there."""
        with urllib.request.urlopen(f"{self.prefect}/{path}", timeout=LOCKED) as answer:
            return json.load(answer)

    def runs(self, flow: str, **filters: Any) -> list[dict[str, Any]]:
        """Flow runs of a flow, the first one first."""
        body = {"flows": {"name": {"any_": [flow]}}, "flow_runs": filters}
        found = ask(f"{self.prefect}/flow_runs/filter", body)
        return sorted(found, key=lambda run: str(run["created"]))

    def state(self, run: str) -> str:
        """COMPLETED, RUNNING, …"""
        return str(self.get(f"flow_runs/{run}")["state"]["type"])

    def ended(self, run: str, patience: float = PATIENCE) -> dict[str, Any]:
        """A run's state, once it is final."""

        def final() -> Any:
            state = self.get(f"flow_runs/{run}")["state"]
            return state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") and state

        return dict(until(final, f"run {run} ends", patience))

    def logs(self, run: str) -> list[str]:
        """What a run said."""
        body = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200, "sort": "TIMESTAMP_ASC"}
        return [line["message"] for line in ask(f"{self.prefect}/logs/filter", body)]

    def recorded(self, run: str, last: str) -> bool:
        """Whether the server has all tasks of a run, `last` among them, as completed; it records
        them later than they are."""
        asked = {"flow_runs": {"id": {"any_": [run]}}, "limit": 200}
        tasks = ask(f"{self.prefect}/task_runs/filter", asked)
        states = {task["name"]: (task["state"] or {}).get("type") for task in tasks}
        return states.get(last) == "COMPLETED" and set(states.values()) == {"COMPLETED"}

    def worker(self, pool: str) -> int:
        """The process id of a pool's one worker."""
        (found,) = pids(f"prefect worker start --pool {pool}", self.home)
        return found

    def processes(self, pool: str) -> list[int]:
        """Those of the runs that its worker has: what it started, and what was forked for that."""
        mine = set(children(self.worker(pool)))
        warm = mine & set(pids("flows.warm", self.home))
        engines = mine & set(pids("flows.engine", self.home))
        return sorted(engines.union(*map(children, warm)))


def until(found: Any, what: str, patience: float = PATIENCE) -> Any:
    """What a function gives, once it gives something."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if result := found():
            return result
        time.sleep(0.5)
    raise AssertionError(f"not within {patience:.0f} s: {what}")


def pids(words: str, home: Path) -> list[int]:
    """Processes with these words in their command and this GRAFT_HOME."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            said = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            ours = f"GRAFT_HOME={home}".encode() in (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if words in said and ours:
            found.append(int(folder.name))
    return found


def children(parent: int) -> list[int]:
    """Processes a process started."""
    return [int(one) for one in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


@contextmanager
def operated(base: Path, pipelines: str, *options: str) -> Iterator[Operated]:
    """`graft up` on a toy project, from when it says where everything is to its end."""
    folder, home = write_project(base / "project"), base / "home"
    (folder / "pipelines.yaml").write_text(pipelines, encoding="utf-8")
    log = base / "up.log"
    with ExitStack() as running:
        with FileLock(ONE_AT_A_TIME):  # two that look for free ports at once find the same
            with log.open("wb") as said:
                process = subprocess.Popen(
                    command("up", *options),
                    cwd=folder,
                    env=environment(home),
                    stdout=said,
                    stderr=subprocess.STDOUT,
                )
            running.callback(process.wait, timeout=180)
            running.callback(process.send_signal, signal.SIGINT)

            def addresses() -> Any:
                assert process.poll() is None, log.read_text()
                told = dict(re.findall(r"export (\w+)=(\S+)", log.read_text()))
                return "MLFLOW_TRACKING_URI" in told and told

            told = until(addresses, "graft up")
        yield Operated(folder, home, told["PREFECT_API_URL"], told["MLFLOW_TRACKING_URI"])
    assert not alive(home), "graft up left processes behind"


def alive(home: Path) -> list[int]:
    """Whatever of a stack still runs, but for this process."""
    return [one for one in pids("", home) if one != os.getpid()]


EIGHT_END = 900.0
"""Seconds until each of eight runs that share two cores with other tests has ended."""
EIGHT = tuple(f"p{number}" for number in range(1, 9))
LIGHT = PIPELINES.partition("\n")[2]
for old, new in (
    (
        "source_training: {epochs: 2, learning_rate: 1.0e-3, checkpoint_every: 5}",
        "source_training: {epochs: 1}",
    ),
    ("{resamples: 200}", "{resamples: 200, baselines: [majority]}"),
    ("{model: toy}", "{model: NAME}\n    run_on: {flow: cpu, transfer: cpu}\n    seed: SEED"),
    ("  toy:", "  NAME:"),
):
    assert old in LIGHT
    LIGHT = LIGHT.replace(old, new)
EIGHT_PIPELINES = "".join(
    LIGHT.replace("NAME", name).replace("SEED", str(seed)) for seed, name in enumerate(EIGHT)
)
"""Eight that have nothing in common but their data, each of one process."""


def eight_at_once(up: Operated) -> None:
    """All are started together, all end, and nothing is lost: runs, tasks, models, curves."""
    up.graft("deploy")
    runs = {name: up.start(f"transfer/{name}") for name in EIGHT}
    ended = {name: up.ended(run, EIGHT_END)["type"] for name, run in runs.items()}
    assert set(ended.values()) == {"COMPLETED"}, ended
    for name, run in runs.items():
        until(partial(up.recorded, run, f"register {name}"), f"the tasks of {name}")
        url = f"{up.mlflow}/api/2.0/mlflow/registered-models/get-latest-versions"
        versions = ask(url, {"name": name})["model_versions"]
        assert [version["version"] for version in versions] == ["1"]
