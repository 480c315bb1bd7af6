"""Against a Prefect server that is already there."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tasks import tracking
from tasks.ledger import Ledger
from tests.project import ask, command, environment, write_project

pytestmark = pytest.mark.integration


def test_runs_against_a_server(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    found = heard(server, "graft.promoted")
    assert found["resource"]["prefect.resource.id"] == "graft.model.toy"
    assert len(found["payload"]["hash"]) == 64
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "home"))
    tracking.connect().create_model_version("toy", source="file:///none")
    none = {"by": "graft", "because": "", "frozen": None, "evidence": None, "run": None}
    ledger = Ledger("toy")
    ledger.append(ledger.standing(), decision="promoted", version="2", champion="2", **none)
    graft("rollback", "toy", "--by", "ann")
    assert heard(server, "graft.rolled_back")["payload"]["by"] == "ann"


def heard(url: str, name: str) -> dict[str, Any]:
    """The event of this name, which the server writes down some seconds after it came."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        asked = {"filter": {"event": {"name": [name]}}}
        for event in ask(f"{url}/events/filter", asked)["events"]:
            return dict(event)
        time.sleep(1)
    raise AssertionError(f"no event {name}")
