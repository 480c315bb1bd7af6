"""What every test gets: a home of its own, no network, and the smallest application."""

from __future__ import annotations

import os
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest

from flows import cli
from flows.console import quiet_libraries

# Before anything imports Prefect, which reads its settings once: one home, and so one ephemeral
# server, for the whole session.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="prefect-")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny: threads only get in the way
quiet_libraries()

from tasks.learning.applications.text_classification import TextClassification  # noqa: E402
from tests.tiny import write_backbone, write_causal, write_seq2seq  # noqa: E402


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """GRAFT_HOME, new for each test; no hub, no tracking server, nobody's own settings."""
    folder = tmp_path / "home"
    for name in ("GRAFT_MIRROR", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GRAFT_HOME", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # Commands that run inside this process share the session's ephemeral server.
    monkeypatch.setattr(cli, "prefect_server", lambda: nullcontext(lambda: None))
    return folder


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for registry packages that all tests of a session share."""
    return tmp_path_factory.mktemp("packages")


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers."""
    return write_backbone(tmp_path_factory.mktemp("tiny"), layers=2)


@pytest.fixture(scope="session")
def seq2seq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random T5."""
    return write_seq2seq(tmp_path_factory.mktemp("seq2seq"))


@pytest.fixture(scope="session")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama."""
    return write_causal(tmp_path_factory.mktemp("causal"))


@pytest.fixture
def classification() -> TextClassification:
    """negative or positive."""
    return TextClassification(kind="text_classification", labels=("negative", "positive"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first, so that no process is left with one when the others are done."""
    items.sort(
        key=lambda item: (
            item.get_closest_marker("integration") is None,
            item.path.name != "test_shipped.py",  # the longest of all
        )
    )
