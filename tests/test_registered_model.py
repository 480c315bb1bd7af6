"""The registered model, used where Graft is not installed."""

from __future__ import annotations

import json
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

from flows.answers import answers
from tasks.errors import DataError, SourceUnavailable
from tests.project import environment, graft, write_project, write_writing_project

pytestmark = pytest.mark.integration

WITHOUT_GRAFT = """
import sys
sys.meta_path = [f for f in sys.meta_path if "editable" not in type(f).__name__.lower()
                 and "editable" not in getattr(f, "__module__", "").lower()
                 and "editable" not in getattr(f, "__name__", "").lower()]
sys.path = [p for p in sys.path if p not in ("", REPOSITORY)]
try:
    import tasks
except ImportError:
    pass
else:
    raise SystemExit("Graft can still be imported")
import mlflow, pandas
mlflow.set_tracking_uri(URI)
model = mlflow.pyfunc.load_model("models:/toy@challenger")
print(model.predict(pandas.DataFrame({"text": ["great film", "awful plot"]})).to_json())
"""


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A project and its home, after one run."""
    folder = write_project(tmp_path_factory.mktemp("project"))
    home = tmp_path_factory.mktemp("registered") / "home"
    done = graft(folder, home, "run", "toy")
    assert done.returncode == 0, done.stderr
    return folder, home


def uri(home: Path) -> str:
    return f"sqlite:///{home / 'mlflow.db'}"


def asked_without_graft(home: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """What the registered model says to two texts in a process that cannot import Graft."""
    repository = str(Path(__file__).parent.parent)
    script = f"REPOSITORY = {repository!r}\nURI = {uri(home)!r}\n{WITHOUT_GRAFT}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_model_that_writes(tmp_path: Path) -> None:
    """A translation is adapted, scored beside a copy, registered, and written without Graft."""
    folder, home = write_writing_project(tmp_path / "project"), tmp_path / "home"
    done = graft(folder, home, "run", "toy", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])["evaluation"]
    assert list(report["systems"]) == ["copy", "source_only", "target_only", "transfer"]
    assert set(report["systems"]["transfer"]) == {"bleu", "chrf"}
    assert set(report["shift"]) == {"before", "after"}
    (tmp_path / "elsewhere").mkdir()
    table = asked_without_graft(home, tmp_path / "elsewhere")
    assert list(table) == ["translation"]
    assert len(table["translation"]) == 2


def test_loads_without_graft(registered: tuple[Path, Path], tmp_path: Path) -> None:
    """A process that cannot import Graft loads the model and gets labels and probabilities."""
    _, home = registered
    table = asked_without_graft(home, tmp_path)
    assert list(table["label"].values()) == ["positive", "negative"]
    sums = [table["probability_negative"][i] + table["probability_positive"][i] for i in "01"]
    assert sums == pytest.approx([1, 1], abs=1e-5)


def test_predict_command(registered: tuple[Path, Path]) -> None:
    """`graft predict` answers for a text and for a file, in JSON where a script reads it."""
    folder, home = registered
    one = graft(folder, home, "predict", "toy", "great film", "--json")
    assert json.loads(one.stdout)[0]["label"] == "positive"
    (folder / "fresh.csv").write_text('text\n"great, great film"\nawful plot\n', encoding="utf-8")
    many = graft(folder, home, "predict", "toy", "fresh.csv", "--json")
    assert [row["label"] for row in json.loads(many.stdout)] == ["positive", "negative"]


def test_predict_refuses(registered: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A model nobody registered, and a file without the column the model asks for."""
    folder, home = registered
    monkeypatch.setenv("GRAFT_HOME", str(home))
    with pytest.raises(SourceUnavailable, match="'nobody': no champion and no challenger"):
        answers("nobody", "great film")
    (folder / "titles.csv").write_text("title\ngreat\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column 'text'"):
        answers("toy", str(folder / "titles.csv"))


@pytest.fixture
def server(registered: tuple[Path, Path], tmp_path: Path) -> Iterator[str]:
    """MLflow's scoring server on the challenger."""
    _, home = registered
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    mlflow = str(Path(sys.executable).parent / "mlflow")
    process = subprocess.Popen(
        [mlflow, "models", "serve", "-m", "models:/toy@challenger", "--env-manager", "local",
         "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
        cwd=tmp_path,
        env={**environment(home), "MLFLOW_TRACKING_URI": uri(home),
             "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        import os
        import signal

        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def test_served_over_http(server: str) -> None:
    """`mlflow models serve` answers what the library does."""
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{server}/ping", timeout=5)
            break
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < deadline, "no answer in two minutes"
            time.sleep(0.5)
    body = {"dataframe_records": [{"text": "great film"}, {"text": "awful plot"}]}
    request = urllib.request.Request(
        f"{server}/invocations",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        predictions = json.load(answer)["predictions"]
    assert [p["label"] for p in predictions] == ["positive", "negative"]
    assert predictions[0]["probability_positive"] > 0.5 > predictions[1]["probability_positive"]
