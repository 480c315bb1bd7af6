"""Against a Prefect server that is already there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.project import command, environment, write_project

pytestmark = pytest.mark.integration


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A Prefect server on a free loopback port; gives its API's address."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    prefect = str(Path(sys.executable).parent / "prefect")
    process = subprocess.Popen(
        [prefect, "server", "start", "--host", "127.0.0.1", "--port", str(port)],
        env={**environment(tmp_path), "PREFECT_HOME": str(tmp_path / "server")},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/api"
    deadline = time.monotonic() + 120
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5)
                break
            except (urllib.error.URLError, ConnectionError):
                assert time.monotonic() < deadline, "no answer in two minutes"
                time.sleep(0.5)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def ask(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_runs_against_a_server(server: str, tmp_path: Path) -> None:
    """With PREFECT_API_URL the run, its tasks, logs and result table are on that server, and what
    becomes of its model is told there."""
    folder = write_project(tmp_path / "project")

    def graft(*arguments: str) -> None:
        done = subprocess.run(
            command(*arguments),
            cwd=folder,
            env={**environment(tmp_path / "home"), "PREFECT_API_URL": server},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    graft("run", "toy", "--json")
    (flow_run,) = ask(f"{server}/flow_runs/filter", {})
    assert flow_run["state"]["type"] == "COMPLETED"
    tasks = ask(f"{server}/task_runs/filter", {"limit": 100})
    assert {task["state"]["type"] for task in tasks} == {"COMPLETED"}
    assert {task["name"] for task in tasks} >= {
        "fetch backbone", "ingest movies", "validate products", "source movies",
        "transfer target_only", "transfer transfer", "predict transfer", "evaluate products",
        "register toy",
    }  # fmt: skip
    inputs = {task["name"]: task["task_inputs"] for task in tasks}
    assert inputs["transfer transfer"]["after"], "the run's graph has no edge into transfer"
    (artifact,) = ask(f"{server}/artifacts/filter", {"artifacts": {"type": {"any_": ["markdown"]}}})
    assert "target_only" in artifact["data"]
    logs = ask(f"{server}/logs/filter", {"logs": {"flow_run_id": {"any_": [flow_run["id"]]}}})
    assert any("validate" in log["message"] for log in logs)
    graft("promote", "toy")
    graft("run", "toy", "--set", "training.epochs=3")
    heard = {"filter": {"event": {"prefix": ["graft."]}}}
    events = {found["event"]: found for found in ask(f"{server}/events/filter", heard)["events"]}
    assert "graft.promoted" in events
    assert events["graft.promoted"]["resource"]["prefect.resource.id"] == "graft.model.toy"
    assert len(events["graft.promoted"]["payload"]["hash"]) == 64
    graft("rollback", "toy", "--to", "2", "--by", "ann")
    assert "graft.rolled_back" in {
        found["event"] for found in ask(f"{server}/events/filter", heard)["events"]
    }
