"""The monitor on toy projects: real Prefect, MLflow and registered models."""

from __future__ import annotations

import json
import shutil
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fastapi.testclient import TestClient
from prefect.utilities.callables import parameter_schema

from benchmarks.serving import ask
from flows import announce
from flows.service import application
from tasks import served, tracking
from tasks.errors import DataError, DataRejected, SourceUnavailable
from tasks.inputs import read_table
from tasks.learning.contracts import Row
from tasks.load import load
from tests.project import numbered, write_project, write_rows
from tests.test_serve import Place, champion
from tests.test_serve import served as served_by
from tests.tiny import reviews

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose champion was promoted, and files of fresh text."""
    folder = write_project(tmp_path_factory.mktemp("project"), rows=400)
    write_rows(folder / "same.jsonl", numbered(reviews(150, seed=7), "products"))
    other = [{"text": f"it is {word} and {word}"} for word in ("xylophone", "harpsichord")] * 60
    write_rows(folder / "other.jsonl", other)
    (folder / "few.txt").write_text("great film\n" * 10, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_HOME", str(folder / "home"))
        patch.chdir(folder)
        from flows.promote import promote
        from flows.transfer import transfer

        few = ["evaluation.baselines=[majority]"]
        transfer("toy", load(Path("pipelines.yaml"), "toy", few))
        promote("toy")
    return folder


@pytest.fixture(autouse=True)
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(project / "home"))
    monkeypatch.chdir(project)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The events that were emitted."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(announce, "emit_event", lambda **given: found.append(given))
    return found


def monitored(text: str, model: str = "toy") -> dict[str, Any]:
    from flows.monitor import monitor

    return monitor(model, text)


def test_same_and_other_text(told: list[dict[str, Any]]) -> None:
    """Text of the same kind raises no alarm and no event; other text does both, and its rows are
    kept for a retraining, where their owner alone may read them."""
    report = monitored("same.jsonl")
    assert not report["drifted"], report["measures"]
    assert (told, report["kept"], report["left_out"]) == ([], None, [])
    assert (report["rows"]["fresh"], report["rows"]["given"]) == (150, 150)

    report = monitored("other.jsonl")
    assert report["drifted"]
    measures = {one["name"]: one for one in report["measures"]}
    assert list(measures) == [
        *("embeddings", "classifier", "length", "unknown_words", "labels", "confidence"),
    ]
    for one in measures.values():
        assert one["drifted"] == (one["value"] > one["threshold"])
    assert measures["unknown_words"]["drifted"]
    (event,) = told
    assert event["event"] == "graft.drifted"
    assert event["resource"]["prefect.resource.id"] == "graft.model.toy"
    assert event["payload"] == report
    kept = Path(report["kept"])
    assert kept.parent == Path("home/monitor/toy").absolute()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert [json.loads(line) for line in kept.read_text().splitlines()] == [
        json.loads(line) for line in Path("other.jsonl").read_text().splitlines()
    ]
    logged = json.loads(tracking.run_file(report["run"], "report.json").read_text())
    assert logged == {name: value for name, value in report.items() if name != "run"}
    for name in ("measures.png", "embeddings.png", "lengths.png"):
        assert tracking.run_file(report["run"], name).stat().st_size > 1000
    assert tracking.run_values(report["run"])["drifted"] == 1


def test_what_the_run_records() -> None:
    """The target's training text, unlabelled too, without labels and without test rows."""
    from tasks.watch import watched

    watch = watched("toy", "same.jsonl")
    texts = [{row["text"] for row in side} for side in (watch.trained, watch.reference)]
    assert len(watch.trained) == len(texts[0]) > 24  # more than has labels
    assert {key for row in (*watch.trained, *watch.reference) for key in row} == {"text"}
    assert not texts[0] & texts[1]


def test_refused() -> None:
    """In one line each."""
    with pytest.raises(SourceUnavailable, match="'nothing' is not in the registry"):
        monitored("same.jsonl", "nothing")
    with pytest.raises(SourceUnavailable, match=r"gone\.jsonl: there is no such file; 'served'"):
        monitored("gone.jsonl")
    with pytest.raises(DataRejected, match=r"few\.txt: 10 rows; at least 50 tell"):
        monitored("few.txt")
    with pytest.raises(SourceUnavailable, match="nothing was kept; graft serve toy --log keeps"):
        monitored("served")
    pd.DataFrame({"title": ["a"]}).to_csv("wrong.csv")
    with pytest.raises(DataError, match="no column 'text'"):
        monitored("wrong.csv")


def test_the_form_in_prefects_ui() -> None:
    """Each parameter has a type, limits and a description."""
    from flows.monitor import monitor

    found = parameter_schema(monitor).properties
    assert list(found) == ["model", "text", "false_alarms"]
    assert all(one["description"] for one in found.values())
    rate = found["false_alarms"]
    assert (rate["type"], rate["minimum"], rate["maximum"]) == ("number", 0.001, 0.5)


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A table, or JSON; the exit code is 0 either way."""
    from tests.test_cli import said

    shown = said(capsys, monkeypatch, "monitor", "toy", "other.jsonl")
    assert "DRIFT: " in shown
    assert "unknown words" in shown
    shown = said(capsys, monkeypatch, "monitor", "toy", "same.jsonl", "--json")
    assert json.loads(shown)["drifted"] is False


def answered(log: served.Log, rows: Sequence[Row], params: Any = None) -> None:
    """Ask a service that keeps requests."""
    from flows.service import Service

    service = Service("toy", log=log)
    service.champion = champion()
    body = {"dataframe_records": rows, **({} if params is None else {"params": params})}
    found = TestClient(application(service)).post("/invocations", json=body)
    assert found.status_code == 200, found.text


def kept_lines() -> list[dict[str, str]]:
    return served.newest("toy", 10**6)


def test_served_with_consent_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A request is kept if it says so, and only then; redacted, in a file of its owner's."""
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path))
    log = served.Log("toy")
    secret = [{"text": "write to ann@example.org or +49 30 1234567"}]
    for refused in (None, {}, {"log": False}, {"log": "true"}, {"log": 1}, "log", [True]):
        answered(log, secret, refused)
    assert not served.folder("toy").exists()
    answered(log, [*secret, {"text": "a" * (served.LETTERS + 1)}], {"log": True})
    log.close(10)
    (row,) = kept_lines()
    assert row["text"] == "write to <email> or <phone>"
    assert row["version"] == "1"
    (path,) = served.folder("toy").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.name.startswith(time.strftime("%Y-%m-%d", time.gmtime()))


def test_a_server_that_keeps_requests(project: Path) -> None:
    """By the command: nothing without --log; with it, what was answered last is written, too."""
    place = Place(project, project / "home", "1", "2")
    said = {"params": {"log": True}, "dataframe_records": [{"text": "great from 10.0.0.1"}]}
    with served_by(place) as (at, _):
        assert ask(at, said)[0] == 200
    assert not kept_lines()
    with served_by(place, "toy", "--log") as (at, _):
        assert ask(at, said)[0] == 200
        assert ask(at, {"dataframe_records": said["dataframe_records"]})[0] == 200
    assert [row["text"] for row in kept_lines()] == ["great from <ip>"]
    shutil.rmtree(served.folder("toy"))


def test_a_log_that_cannot_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests go on, and it is told once; a file that is full takes no more."""
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path))
    (tmp_path / "served").write_text("a file where the folder should be")
    log = served.Log("toy")
    for _ in range(3):
        answered(log, [{"text": "great"}], {"log": True})
    log.close(10)
    assert [one for one in caplog.messages if "not kept" in one] == [
        "toy: requests are not kept: Not a directory"
    ]
    (tmp_path / "served").unlink()
    caplog.clear()
    monkeypatch.setattr(served, "BYTES", 200)
    log = served.Log("toy")
    for _ in range(9):
        answered(log, [{"text": "great"}], {"log": True})
    log.close(10)
    (path,) = served.folder("toy").iterdir()
    assert 0 < path.stat().st_size <= 200
    (told,) = (one for one in caplog.messages if "not kept" in one)
    assert "has 200 bytes, the most of a day" in told


def test_what_was_served(told: list[dict[str, Any]]) -> None:
    """It is compared with a reference that is redacted as it is."""
    log = served.Log("toy")
    rows = [
        {"text": row["text"]} for row in read_table(Path("same.jsonl"), "text").to_dict("records")
    ]
    answered(log, rows, {"log": True})
    log.close(10)
    with next(served.folder("toy").iterdir()).open("a") as file:
        file.write('{"at": "2026-11')  # half a line
    report = monitored("served")
    assert (report["rows"]["fresh"], report["drifted"]) == (150, False)
