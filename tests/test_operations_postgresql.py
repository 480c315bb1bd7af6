"""The same stack with its data in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.operated import EIGHT_PIPELINES, Operated, eight_at_once, operated, until
from tests.project import PIPELINES
from tests.stack import postgres

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

AFTER_RUN = PIPELINES.replace("{model: toy}", "{model: toy, after_run: true}")
SCHEDULED = AFTER_RUN + "    schedule: {every_hours: 6}\n"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    """Up, on two databases of one server."""
    base: Path = tmp_path_factory.mktemp("up")
    with postgres() as server:
        prefect, mlflow = (server.create(name) for name in ("prefect", "mlflow"))
        databases = (
            *("--prefect-database", prefect.replace("postgresql:", "postgresql+asyncpg:")),
            *("--mlflow-database", mlflow),
        )
        with operated(base, SCHEDULED, *databases) as found:
            yield found


def test_from_the_form_to_the_promotion(up: Operated) -> None:
    """Deployed, started, learned on the gpu worker, registered and promoted; the schedule's runs
    are there."""
    run = up.start("transfer/toy")
    assert up.ended(run)["type"] == "COMPLETED"
    (learned,) = up.runs("learn")
    assert learned["work_pool_name"] == "gpu"
    (promoted,) = until(lambda: up.runs("promote"), "a promotion")
    assert up.ended(promoted["id"])["type"] == "COMPLETED"
    (entry,) = json.loads(up.graft("history", "toy", "--json"))
    assert (entry["decision"], entry["champion"]) == ("promoted", "1")
    assert until(
        lambda: up.runs("transfer", state={"type": {"any_": ["SCHEDULED"]}}), "scheduled runs"
    )
    assert not (up.home / "mlflow.db").exists(), "nothing is in SQLite"


def test_eight_at_once(up: Operated) -> None:
    """Eight pipelines that start together end together, and PostgreSQL loses nothing of them."""
    up.declare(SCHEDULED + EIGHT_PIPELINES)
    eight_at_once(up)
