"""What docker/compose.yaml runs, as processes: its commands, environments, scripts and health
checks, on PostgreSQL, Redis and SeaweedFS."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.project import command, write_project
from tests.stack import Stack, path_first, succeeds
from tests.stack import stack as start_stack

pytestmark = pytest.mark.integration

SCHEDULED = """\
import sys
from datetime import timedelta
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.schedules import Interval
from flows.promote import promote

with get_client(sync_client=True) as client:
    client.create_work_pool(WorkPoolCreate(name="cpu", type="process"))
RunnerDeployment.from_flow(
    promote, name="hourly", parameters={"model": "toy"}, work_pool_name="cpu",
    schedules=[Interval(timedelta(hours=1))], entrypoint_type=EntrypointType.MODULE_PATH,
).apply()
"""
"""Deploys a flow to run every hour, through Prefect's client."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with start_stack(tmp_path_factory.mktemp("stack")) as started:
        yield started


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("project"))


def variables(stack: Stack, **others: str) -> dict[str, str]:
    """What compose.yaml tells a worker, with its secrets in place, as the entrypoint puts them."""
    login = {
        "PREFECT_API_AUTH_STRING": stack.secret("prefect_auth"),
        "MLFLOW_TRACKING_PASSWORD": stack.secret("mlflow_password"),
    }
    told = {**stack.variables("worker-cpu"), **login}
    home = {"PREFECT_HOME": str(stack.log / "client"), "OMP_NUM_THREADS": "1"}
    return {**told, **home, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", **others}


def graft(
    stack: Stack, folder: Path, *words: str, **others: str
) -> subprocess.CompletedProcess[str]:
    """Run `graft` as a worker's container would."""
    return subprocess.run(
        command(*words),
        cwd=folder,
        env=variables(stack, **others),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def ask(stack: Stack, url: str, body: Any = None, **headers: str) -> Any:
    """What a server answers to JSON, or to nothing."""
    login = stack.secret("prefect_auth")
    if url.startswith(stack.mlflow):
        login = f"graft:{stack.secret('mlflow_password')}"
    request = urllib.request.Request(
        url,
        None if body is None else json.dumps(body).encode(),
        {
            "Content-Type": "application/json",
            "Authorization": f"Basic {base64.b64encode(login.encode()).decode()}",
            **headers,
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def refusal(stack: Stack, url: str, **headers: str) -> int:
    """The status with which a server refuses."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(stack, url, **headers)
    return refused.value.code


def test_a_pipeline_runs_and_is_promoted(stack: Stack, project: Path) -> None:
    """`graft run` and `graft promote` work against the stack: the flow runs are in Prefect,
    whichever of its API servers is asked, the model in MLflow, and its files in the S3 store,
    without the client having gone there."""
    for words in (("run", "toy", "--json"), ("promote", "toy", "--json")):
        done = graft(stack, project, *words)
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout)
    for api in stack.prefect:
        runs = ask(stack, f"{api}/flow_runs/filter", {})
        assert {run["state"]["type"] for run in runs} == {"COMPLETED"}, runs
        assert len(runs) == 2
    models = f"{stack.mlflow}/api/2.0/mlflow/registered-models"
    model = ask(stack, f"{models}/get?name=toy")["registered_model"]
    aliases = {alias["alias"]: alias["version"] for alias in model["aliases"]}
    assert aliases["champion"] == "1"
    stored = boto3.client(
        "s3",
        endpoint_url=stack.s3,
        region_name="us-east-1",
        aws_access_key_id=stack.secret("s3_access_key"),
        aws_secret_access_key=stack.secret("s3_secret_key"),
    ).list_objects_v2(Bucket="mlflow")
    files = {Path(found["Key"]).name: found["Size"] for found in stored["Contents"]}
    assert {"MLmodel", "pipeline.json"} <= set(files)
    assert any(name.endswith(".safetensors") and size > 10_000 for name, size in files.items())
    assert graft(stack, project, "predict", "toy", "a fine film", "--json").returncode == 0
    log = (stack.log / "mlflow.log").read_text(encoding="utf-8")
    assert "/mlflow-artifacts/artifacts" in log
    assert not any(word in log for word in ("/presigned", "/mpu/")), (
        "a client was sent to the store"
    )


def test_a_restored_database(stack: Stack, project: Path) -> None:
    """docker/README.md's way, back from a newer version's tables: while the database is empty the
    model is not there, and restored it is whole, with the same people kept out."""
    login = {**os.environ, **stack.superuser}
    dump = stack.log / "mlflow.dump"

    def tell(*words: str) -> str:
        done = subprocess.run(words, env=login, check=True, capture_output=True, text=True)
        return done.stdout

    who = ("psql", "--no-psqlrc", "--tuples-only", "--command")
    asked = "SELECT datacl FROM pg_database WHERE datname = 'mlflow'"
    allowed = tell(*who, asked, "postgres")
    tell("pg_dump", "--format=custom", f"--file={dump}", "mlflow")
    newer = "CREATE TABLE newer (id INTEGER REFERENCES experiments); "
    tell(
        *who,
        newer + "DELETE FROM registered_model_aliases; DELETE FROM model_version_tags",
        "mlflow",
    )
    assert "no model is registered" in graft(stack, project, "verify").stdout
    tell("dropdb", "--force", "mlflow")
    tell("pg_restore", "--create", "--exit-on-error", "--dbname=postgres", str(dump))
    done = graft(stack, project, "verify", "toy")
    assert done.returncode == 0, done.stderr
    assert "toy version 1: whole" in done.stdout
    assert tell(*who, asked, "postgres") == allowed


def test_schedules_become_runs(stack: Stack, tmp_path: Path) -> None:
    """The background services, a process of their own, schedule what a deployment says."""
    script = tmp_path / "deploy.py"
    script.write_text(SCHEDULED)
    done = subprocess.run(
        ["python", script], env=variables(stack), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    wanted = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    deadline = time.monotonic() + 120
    while not (runs := ask(stack, f"{stack.prefect[1]}/flow_runs/filter", wanted)):
        assert time.monotonic() < deadline, "nothing is scheduled"
        time.sleep(1)
    assert all(run["auto_scheduled"] for run in runs)


def test_events_travel_through_redis(stack: Stack) -> None:
    """What one API server is told, the background services write down, and the other one tells."""
    event = {
        "id": "6a0a5b0e-0b58-4b6a-9a55-5d8f3f8b5a01",
        "occurred": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "event": "graft.tested",
        "resource": {"prefect.resource.id": "graft.model.toy"},
    }
    with pytest.raises(json.JSONDecodeError):  # 204: nothing to say
        ask(stack, f"{stack.prefect[0]}/events", [event])
    wanted = {"filter": {"event": {"name": ["graft.tested"]}}}
    deadline = time.monotonic() + 60
    while not ask(stack, f"{stack.prefect[1]}/events/filter", wanted)["events"]:
        assert time.monotonic() < deadline, "the event is nowhere"
        time.sleep(1)


def test_a_wrong_password_is_refused_in_one_line(stack: Stack, project: Path) -> None:
    """MLflow lets nobody in without the password, and `graft run` says so and ends."""
    done = graft(stack, project, "run", "toy", MLFLOW_TRACKING_PASSWORD="wrong")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"graft: MLflow at {stack.mlflow}:")
    assert "401" in line or "authenticate" in line
    assert refusal(stack, f"{stack.prefect[0]}/admin/version", Authorization="Basic eDp5") == 401


def test_a_wrong_host_is_refused(stack: Stack) -> None:
    """MLflow answers 403 to a Host that is not allowed, and the others what they asked."""
    url = f"{stack.mlflow}/api/2.0/mlflow/experiments/get?experiment_id=0"
    assert refusal(stack, url, Host="evil.example") == 403
    port = stack.mlflow.rpartition(":")[2]
    assert ask(stack, url, Host=f"localhost:{port}")["experiment"]["experiment_id"] == "0"


def test_databases_want_passwords(stack: Stack) -> None:
    """Neither PostgreSQL nor Redis lets in who has none, and MLflow's user does not get into
    Prefect's database."""
    host, _, port = stack.translate("postgres:5432").rpartition(":")
    psql = ["psql", "--no-psqlrc", f"--host={host}", f"--port={port}", "--command=SELECT 1"]
    right = {**path_first(), "PGPASSWORD": stack.secret("mlflow_database_password")}
    assert succeeds([*psql, "--username=mlflow", "mlflow"], right)
    assert not succeeds([*psql, "--username=mlflow", "mlflow"], {**right, "PGPASSWORD": "wrong"})
    assert not succeeds([*psql, "--username=mlflow", "prefect"], right)
    port = stack.translate("redis:6379").rpartition(":")[2]
    answer = subprocess.run(["redis-cli", "-p", port, "get", "x"], capture_output=True, check=False)
    assert b"NOAUTH" in answer.stdout


def test_health_checks_tell(stack: Stack) -> None:
    """They say yes while their servers are well, and no of a worker that is not there."""
    for service in ("prefect-api", "prefect-services", "mlflow"):
        assert stack.healthy(service), service
    assert not stack.healthy("worker-gpu")
