"""The registered model, used where Graft is not installed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas
import pytest

from flows.answers import answers
from flows.report import cut
from tasks.errors import DataError, SourceUnavailable
from tasks.learning.applications import AnyApplication
from tests.project import (
    environment,
    graft,
    write_project,
    write_talking_project,
    write_writing_project,
)
from tests.test_grid import APPLICATIONS, members

pytestmark = pytest.mark.integration

WITHOUT_GRAFT = """
import json, sys
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
found = {}
for uri, column in MODELS.items():
    model = mlflow.pyfunc.load_model(uri)
    asked = pandas.DataFrame({column: ["great film", "awful plot"]})
    found[uri] = model.predict(asked).to_dict("list")
    if column == "context":
        pieces = model.predict_stream(asked[:1])
        said = "".join(piece["response"] for piece in pieces)
        assert said.strip() == found[uri]["response"][0], said
print(json.dumps(found))
"""
CHALLENGER = "models:/toy@challenger"


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


def asked_without_graft(
    home: Path, folder: Path, models: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """What models, each with its input column, say to two texts in a process that cannot import
    Graft."""
    known = {"REPOSITORY": str(Path(__file__).parent.parent), "URI": uri(home), "MODELS": models}
    script = "\n".join([*(f"{name} = {value!r}" for name, value in known.items()), WITHOUT_GRAFT])
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
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


def test_a_model_that_writes(tmp_path: Path) -> None:
    """A translation is adapted, scored beside a copy, registered, and written without Graft."""
    folder, home = write_writing_project(tmp_path / "project"), tmp_path / "home"
    done = graft(folder, home, "run", "toy", "--json", "--set", "application.maximum_tokens=5")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)["evaluation"]
    assert report["cut"]["tested"] == report["rows"]
    learned = report["cut"]["learned"]
    assert set(learned) == {"source_only", "target_only", "transfer"}
    assert all(one["cut"] == one["rows"] >= 24 for one in learned.values())
    (said,) = cut(report)
    assert said.startswith("Too long for the application, and cut: ")
    assert "24 of 24 that target_only learned from" in said
    assert list(report["systems"]) == ["copy", "source_only", "target_only", "transfer"]
    assert set(report["systems"]["transfer"]) == {"bleu", "chrf"}
    assert set(report["shift"]) == {"before", "after"}
    (tmp_path / "elsewhere").mkdir()
    (table,) = asked_without_graft(home, tmp_path / "elsewhere", {CHALLENGER: "text"}).values()
    assert list(table) == ["translation"]
    assert len(table["translation"]) == 2


def test_a_model_that_talks(tmp_path: Path) -> None:
    """A dialogue is learned, scored by words and by probability, registered, and talked to."""
    folder, home = write_talking_project(tmp_path / "project"), tmp_path / "home"
    done = graft(folder, home, "run", "toy", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)["evaluation"]
    assert report["rows"] == 40
    assert list(report["systems"]) == ["majority", "source_only", "target_only", "transfer"]
    assert set(report["gains"]["target_only"]["metrics"]) == {
        "bleu",
        "rougeL",
        "perplexity",
        "word_perplexity",
    }
    assert set(report["traits"]["transfer"]) == {"distinct1", "distinct2"}
    talked = graft(folder, home, "chat", "toy", given="hello\ngreat film\n")
    assert talked.returncode == 0, talked.stderr
    assert talked.stdout.count("> ") == 3
    answer = graft(folder, home, "predict", "toy", "hello", "--json")
    (told,) = json.loads(answer.stdout)
    assert list(told) == ["context", "response"]
    assert talked.stdout.startswith(f"> {told['response']}")
    assert len(told["response"]) > 1
    row = {"context": ["hello", "bot: yes", "great film"]}
    (folder / "asked.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    listed = graft(folder, home, "predict", "toy", "asked.jsonl", "--json")
    assert json.loads(listed.stdout)[0]["context"] == "hello\nbot: yes\ngreat film"


@pytest.mark.filterwarnings("ignore:.*An input example was not provided")
def test_every_application_without_graft(
    seq2seq: Path, backbone: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of each, registered, answers where Graft cannot be imported."""
    import mlflow

    from tasks import register
    from tasks.learning import serving
    from tasks.learning.learner import new_learner
    from tasks.registry import loaded_by

    monkeypatch.chdir(tmp_path)  # where MLflow puts artifacts
    register.copy_code(tmp_path / "tasks")
    mlflow.set_tracking_uri(uri(home))
    home.mkdir()
    models = {}
    for kind, application in members(AnyApplication).items():
        options, _ = APPLICATIONS[kind]
        made = application(kind=kind, **options)
        data = tmp_path / kind
        new_learner(seq2seq if not made.labels else backbone, {kind: made}).save(data / "learner")
        serving.describe(data, made)
        (column,) = made.request
        asked = pandas.DataFrame({column: ["great film"]})
        answer = serving.ServedModel(data).predict(asked)
        with mlflow.start_run():
            logged = mlflow.pyfunc.log_model(
                name="model",
                **loaded_by(made, data, tmp_path / "tasks"),
                pip_requirements=[],
                signature=mlflow.models.infer_signature(asked, answer),
            )
        mlflow.register_model(logged.model_uri, kind)
        models[f"models:/{kind}/1"] = column
    (tmp_path / "elsewhere").mkdir()
    found = asked_without_graft(home, tmp_path / "elsewhere", models)
    assert {uri: len(next(iter(table.values()))) for uri, table in found.items()} == {
        uri: 2 for uri in models
    }


def test_loads_without_graft(registered: tuple[Path, Path], tmp_path: Path) -> None:
    """A process that cannot import Graft loads the model and gets labels and probabilities."""
    _, home = registered
    (table,) = asked_without_graft(home, tmp_path, {CHALLENGER: "text"}).values()
    assert table["label"] == ["positive", "negative"]
    sums = [table["probability_negative"][i] + table["probability_positive"][i] for i in (0, 1)]
    assert sums == pytest.approx([1, 1], abs=1e-5)


def test_predict_command(registered: tuple[Path, Path]) -> None:
    """`graft predict` answers for a text and for a file, in JSON where a script reads it."""
    folder, home = registered
    one = graft(folder, home, "predict", "toy", "great film", "--json")
    assert json.loads(one.stdout)[0]["label"] == "positive"
    (folder / "fresh.csv").write_text('text\n"great, great film"\nawful plot\n', encoding="utf-8")
    many = graft(folder, home, "predict", "toy", "fresh.csv", "--json")
    assert [row["label"] for row in json.loads(many.stdout)] == ["positive", "negative"]


def test_chat_refuses(registered: tuple[Path, Path]) -> None:
    """What is no dialogue, in one line."""
    folder, home = registered
    done = graft(folder, home, "chat", "toy", given="hello\n")
    assert done.returncode == 2
    assert "'toy' is no dialogue model; `graft predict toy TEXT` asks it" in done.stderr


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
