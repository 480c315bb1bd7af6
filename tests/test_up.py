"""Which workers `graft up` starts."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from mlflow.server.security_utils import is_allowed_host_header

from flows import up
from tasks.errors import ConfigError

HERE = up.Addresses("http://127.0.0.1:4200", "http://127.0.0.1:5000")


@pytest.mark.parametrize(
    ("here", "each", "devices"),
    [(0, 1, ["0"]), (2, 1, ["0", "1"]), (4, 2, ["0 1", "2 3"]), (4, 4, ["0 1 2 3"])],
)
def test_workers(here: int, each: int, devices: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the pool cpu, and of the pool gpu as many as the GPUs make; no GPU is one, too."""
    monkeypatch.setattr(up, "graphics", lambda: here)
    first, *rest = up.all_workers(HERE, each)
    assert first.command == ("graft", "worker", "cpu")
    assert [" ".join(one.command[4::2]) for one in rest] == devices
    assert len({one.name for one in rest}) == len(rest)


def test_a_worker_that_would_have_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would refuse what the others take."""
    monkeypatch.setattr(up, "graphics", lambda: 3)
    with pytest.raises(ConfigError, match="--gpus 2 does not divide the 3 that are here"):
        up.all_workers(HERE, 2)


@pytest.mark.parametrize(
    ("database", "apart"),
    [(None, True), ("sqlite+aiosqlite:///a.db", True), ("postgresql+asyncpg://a/b", False)],
)
def test_whose_server_is_on_sqlite(database: str | None, apart: bool) -> None:
    """Prefect's server is prepared for SQLite where it has one."""
    addresses = up.Addresses("http://127.0.0.1:4200", "http://127.0.0.1:5000")
    found = up.prefect_server(addresses, "127.0.0.1", database)
    assert ("flows.on_sqlite" in found.command) is apart


def test_names_that_mlflow_is_asked_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where others reach it, its own pages from there are answered too; loopback stays alone."""
    monkeypatch.setattr("socket.gethostname", lambda: "box")
    monkeypatch.setattr(up, "outward", lambda: "203.0.113.7")
    assert up.reachable(HERE.mlflow, "127.0.0.1") == {}
    settings = up.reachable(HERE.mlflow, "0.0.0.0")
    allowed = settings["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    for asked in ("localhost:8080", "box:5000", "203.0.113.7:5000", "10.1.2.3:5000", "172.20.0.1"):
        assert is_allowed_host_header(allowed, asked), asked
    assert not is_allowed_host_header(allowed, "evil.example:5000")
    assert "http://box:5000" in settings["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].split(",")
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "models.example")
    settings = up.reachable(HERE.mlflow, "0.0.0.0")
    assert settings["MLFLOW_SERVER_ALLOWED_HOSTS"] == "models.example"


def test_a_slots_holder_outlives_the_server() -> None:
    """Who holds it is on disk."""
    settings = up.prefect_server(HERE, "127.0.0.1", None).environment
    name = settings["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"]
    assert find_spec(name) is not None, "Prefect has it"
    assert name.endswith("filesystem")
