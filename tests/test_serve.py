"""The champion behind HTTP: what is answered and refused, and what a promotion does to it."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient

from benchmarks.serving import JSON, ask, clients
from flows import service as serving
from flows.answers import answers
from flows.serve import Follower
from flows.service import Service, application
from tasks import registry
from tasks.champion import Champion, load_champion
from tasks.errors import SourceUnavailable
from tasks.learning.applications import AnyApplication
from tasks.learning.learner import new_learner
from tasks.learning.serving import ServedModel, describe
from tasks.ledger import Ledger
from tasks.request import requested
from tasks.verdict import Verdict
from tests.project import command, environment, graft, write_promotable_project
from tests.test_grid import APPLICATIONS, members
from tests.test_promote import challenge, promoted

LOG = "serve.log"
ASKED = {"dataframe_records": [{"text": "great film"}, {"text": "awful plot"}]}


class Length:
    """A model that says how long a text is, when it may."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.may.set()
        self.asked = threading.Event()

    def predict(self, table: pd.DataFrame) -> pd.DataFrame:
        self.asked.set()
        assert self.may.wait(30)
        if "fail" in set(table["text"]):
            raise RuntimeError("no room in /home/me/models")
        return pd.DataFrame({"length": table["text"].str.len()})


def champion(version: str = "1", model: Any = None) -> Champion:
    return Champion("toy", version, "float32", "2026-11-26T14:45:03Z", ["text"], model or Length())


@pytest.fixture
def service() -> Service:
    """One that serves `Length`."""
    made = Service("toy")
    made.champion = champion()
    return made


@pytest.fixture
def client(service: Service) -> TestClient:
    return TestClient(application(service))


def test_answers(client: TestClient) -> None:
    """An answer a row, and who gave it; who is served since when; whether the process lives."""
    answer = client.post("/invocations", json=ASKED)
    assert answer.json() == {"predictions": [{"length": 10}, {"length": 10}]}
    assert answer.headers["x-graft-model"] == "toy/1"
    assert answer.headers["content-type"] == "application/json"
    ready = {"name": "toy", "version": "1", "precision": "float32", "since": "2026-11-26T14:45:03Z"}
    assert client.get("/ready").json() == ready
    assert client.get("/health").status_code == client.get("/ping").status_code == 200


def test_forms() -> None:
    """The four ways to say the same; columns that nobody asked for are left out."""
    rows = [{"text": "a", "id": 1}, {"text": "b", "id": 2}]
    table = {"columns": ["id", "text"], "data": [[1, "a"], [2, "b"]], "index": [0, 1]}
    for given in (
        {"dataframe_records": rows},
        {"instances": rows},
        {"dataframe_split": table},
        {"inputs": {"text": ["a", "b"], "id": [1, 2]}},
    ):
        found = requested(json.dumps(given).encode(), ["text"])
        assert found == [{"text": "a"}, {"text": "b"}], given


def test_a_conversation_as_turns() -> None:
    """As in the data and for `graft predict`."""
    turns = ["hello", {"role": "bot", "content": "yes"}]
    body = json.dumps({"dataframe_records": [{"context": turns}]}).encode()
    assert requested(body, ["context"]) == [{"context": "hello\nbot: yes"}]


def records(*rows: Any) -> str:
    return json.dumps({"dataframe_records": rows})


def split(columns: list[Any], rows: list[Any]) -> str:
    return json.dumps({"dataframe_split": {"columns": columns, "data": rows}})


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("{", 400, "the body is not JSON"),
        (b'{"a": "\xff"}', 400, "the body is not JSON"),
        ("[" * 100_000, 400, "the body is not JSON"),
        ("[]", 400, 'an object like {"dataframe_records": [{"text": "Hello."}]}'),
        ('{"text": "a"}', 400, "an object like"),
        ('{"dataframe_split": {"data": [["a"]]}}', 400, "an object like"),
        ('{"dataframe_split": {"columns": ["text"], "data": ["a"]}}', 400, "must have 1 values"),
        ('{"inputs": {"text": "a"}}', 400, "every column must be a list"),
        ('{"inputs": {"text": ["a"], "b": []}}', 400, "all as long as one another"),
        (split([[0] * 50_000], [[0]] * 10_000), 400, "every column's name must be a text"),
        (split(["text"], [["a"]] * 257), 413, "257 rows; a request may have 256"),
        ('{"inputs": {"text": [' + '"a",' * 256 + '"a"]}}', 413, "257 rows"),
        (records(), 400, "there is no row"),
        (records("a"), 400, "row 1 is no object with the column 'text'"),
        (records({"text": "a"}, {"title": "b"}), 400, "row 2 has no column 'text'"),
        (records({"text": 3}), 400, "row 1: 'text' is not a text"),
        (records({"text": ""}), 400, "row 1: 'text' is not a text"),
        (records({"text": "half \ud83d"}), 400, "row 1: 'text' is not a text"),
        (records({"text": ["a", 3]}), 400, "row 1: 'text' is not a text"),
        (records(*[{"text": "a"}] * 257), 413, "257 rows; a request may have 256"),
        ("a" * 1_000_001, 413, "a body may have 1,000,000 bytes"),
        (records({"text": "fail"}), 500, "the model failed"),
    ],
)
def test_bodies_refused(body: str | bytes, status: int, message: str, client: TestClient) -> None:
    """Each with what to do in one line, and nothing of the machine."""
    answer = client.post("/invocations", content=body, headers=JSON)
    assert (answer.status_code, message in one_line(answer)) == (status, True), answer.text


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "message"),
    [
        ("POST", "/invocations", {"content-type": "text/csv"}, 415, "send content-type: app"),
        ("POST", "/invocations", {}, 415, "'' cannot be read"),
        ("POST", "/predict", JSON, 404, "there is no '/predict'; there are /invocations (POST)"),
        ("GET", "/docs", {}, 404, "there is no '/docs'"),
        ("GET", "/invocations", {}, 405, "GET is not for '/invocations'"),
        ("POST", "/ready", {}, 405, "POST is not for '/ready'"),
    ],
)
def test_requests_refused(
    method: str, path: str, headers: dict[str, str], status: int, message: str, client: TestClient
) -> None:
    """What is not there, and what cannot be read."""
    answer = client.request(method, path, content=records({"text": "a"}), headers=headers)
    assert (answer.status_code, message in one_line(answer)) == (status, True), answer.text


def one_line(answer: Any) -> str:
    """The message of a refusal."""
    (said,) = answer.json().values()
    assert "\n" not in answer.text
    assert "Traceback" not in said
    assert "/home" not in said
    return str(said)


def test_nothing_is_served_yet() -> None:
    """The process lives, but is not ready."""
    client = TestClient(application(Service("toy")))
    assert client.get("/health").status_code == 200
    for answer in (client.get("/ready"), client.post("/invocations", json=ASKED)):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert one_line(answer) == "toy is being loaded; try again in a second"


def test_too_many_wait(
    service: Service, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a long prediction one may wait; the next is sent away, and health is told at once."""
    monkeypatch.setattr(serving, "WAITING", 2)
    model = service.champion.model if service.champion else None
    assert isinstance(model, Length)
    model.may.clear()
    found: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(client.post("/invocations", json=ASKED).status_code)
        )
        for _ in range(2)
    ]
    with client:
        for thread in threads:
            thread.start()
        assert model.asked.wait(10)
        deadline = time.monotonic() + 10
        while service._waiting < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert client.get("/health").status_code == 200
        answer = client.post("/invocations", json=ASKED)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert one_line(answer) == "too many requests are waiting; try again in a second"
        model.may.set()
        for thread in threads:
            thread.join(30)
    assert found == [200, 200]


@pytest.mark.parametrize("kind", APPLICATIONS)
def test_every_application(kind: str, seq2seq: Path, backbone: Path, tmp_path: Path) -> None:
    """What each says is JSON, an object a row, in either precision."""
    options, _ = APPLICATIONS[kind]
    made = members(AnyApplication)[kind](kind=kind, **options)
    new_learner(backbone if made.labels else seq2seq, {kind: made}).save(tmp_path / "learner")
    describe(tmp_path, made)
    model = ServedModel(tmp_path)
    served = Champion("toy", "1", "float32", "now", made.request, model)
    rows = [dict.fromkeys(made.request, "great film"), dict.fromkeys(made.request, "no")]
    for precision in (torch.float32, torch.bfloat16):
        model.learner.to(precision)
        found = json.loads(served.answer(rows))
        assert [list(one) for one in found] == [list(found[0])] * 2


def test_what_goes_wrong_is_told_once(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A champion that cannot be loaded, or a registry that is away, changes nothing."""

    def away(name: str) -> str:
        raise SourceUnavailable("MLflow is away")

    def broken(name: str, version: str, wanted: str) -> Champion:
        raise SourceUnavailable("version 2 cannot be loaded")

    follower = Follower(service, uvicorn.Server(uvicorn.Config("none")), "http://here")
    caplog.set_level(logging.INFO, "graft")
    monkeypatch.setattr(serving, "champion_version", away)
    last = follower.look("")
    last = follower.look(last)
    monkeypatch.setattr(serving, "champion_version", lambda name: ("2", 1))
    monkeypatch.setattr(serving, "load_champion", broken)
    last = follower.look(last)
    last = follower.look(last)
    assert service.champion
    assert service.champion.version == "1"
    monkeypatch.setattr(serving, "load_champion", lambda name, version, wanted: champion(version))
    assert (follower.look(last), follower.look("")) == ("", "")
    assert service.champion.version == "2"
    monkeypatch.setattr(serving, "champion_version", away)
    last = follower.look("")
    monkeypatch.setattr(serving, "champion_version", lambda name: ("2", 1))
    assert follower.look(last) == ""
    monkeypatch.setattr(serving, "champion_version", lambda name: ("2", 2))
    assert follower.look("") == ""  # version 2 of a model that was made anew
    assert caplog.messages == [
        "MLflow is away; version 1 is served as before",
        "version 2 cannot be loaded; version 1 is served as before",
        "toy: version 2 is served now",
        "MLflow is away; version 2 is served as before",
        "toy: version 2 is the champion, and served",
        "toy: version 2 is served now",
    ]


# What follows runs the command, on models that were trained.


@dataclass(frozen=True)
class Place:
    """A project, its home, and its model's first champion and next challenger."""

    folder: Path
    home: Path
    first: str
    second: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Where a challenger with ten times the labels waits to be promoted."""
    folder = write_promotable_project(tmp_path_factory.mktemp("project"))
    home = tmp_path_factory.mktemp("serve") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_HOME", str(home))
        patch.chdir(folder)
        first = challenge("toy", labelled=24)
        promoted("toy")
        yield Place(folder, home, first, challenge("toy"))


@pytest.fixture
def here(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """This process in that home, too."""
    monkeypatch.setenv("GRAFT_HOME", str(place.home))
    monkeypatch.chdir(place.folder)
    return place


@contextmanager
def served(
    place: Place, model: str = "toy", *options: str
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`graft serve` at a free port, ready; ended with SIGTERM, and with exit code 0."""
    with (place.home / LOG).open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command("serve", model, "--port", "0", *options),
            cwd=place.folder,
            env=environment(place.home),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout
        said = process.stdout.readline()
        assert "is served at http://127.0.0.1:" in said, (place.home / LOG).read_text()
        yield said.split()[-1].removeprefix("http://"), process
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def version(at: str) -> str:
    """Which one is served."""
    status, _, told = ask(at, path="/ready")
    assert status == 200
    return str(told["version"])


def until(at: str, wanted: str) -> float:
    """When a version was told to be served."""
    deadline = time.monotonic() + 60
    while version(at) != wanted:
        assert time.monotonic() < deadline, f"version {wanted} is not served after a minute"
        time.sleep(0.05)
    return time.monotonic()


@pytest.mark.integration
def test_served_through_a_promotion_and_a_rollback(here: Place) -> None:
    """Of 50 clients at once none is failed by a promotion: the old version answers, then the new,
    and never the old to who asks after the new one is told to be served."""
    with served(here) as (at, _):
        assert version(at) == here.first
        status, by, told = ask(at, ASKED)
        assert (status, by) == (200, f"toy/{here.first}")
        texts = [row["text"] for row in ASKED["dataframe_records"]]
        for text, one in zip(texts, told["predictions"], strict=True):
            (same,) = answers("toy", text).to_dict("records")
            assert one == pytest.approx({k: v for k, v in same.items() if k != "text"})
        with clients(at, 50, [ASKED], pause=0.2) as found:
            _, entry = promoted("toy")
            assert (entry.decision, entry.champion) == ("promoted", here.second)
            told_at = until(at, here.second)
            time.sleep(2)
        assert {answer.status for answer in found} == {200}
        by_whom = {answer.by for answer in found}
        assert by_whom == {f"toy/{here.first}", f"toy/{here.second}"}
        late = {answer.by for answer in found if answer.asked > told_at}
        assert late == {f"toy/{here.second}"}
        done = graft(here.folder, here.home, "rollback", "toy", "--by", "ann")
        assert done.returncode == 0, done.stderr
        until(at, here.first)
        assert ask(at, ASKED)[1] == f"toy/{here.first}"


@pytest.mark.integration
def test_bfloat16(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken if it answers the test rows as well as float32 does, and not if it does not."""
    rows = ASKED["dataframe_records"]
    exact = json.loads(load_champion("toy", here.first, "float32").answer(rows))
    taken = load_champion("toy", here.first, "bfloat16")
    assert taken.precision == "bfloat16"
    assert {p.dtype for p in taken.model.learner.parameters()} == {torch.bfloat16}
    for one, same in zip(json.loads(taken.answer(rows)), exact, strict=True):
        assert one == pytest.approx(same, abs=0.02)
    rejected = Verdict("reject", "gain -0.1")
    monkeypatch.setattr("tasks.champion.verdict", lambda *given: rejected)
    left = load_champion("toy", here.first, "bfloat16")
    assert left.precision == "float32"
    assert json.loads(left.answer(rows)) == exact

    def gone(*given: str) -> Path:
        raise SourceUnavailable("no frozen/test.parquet")

    monkeypatch.setattr("tasks.promote.recorded", gone)
    assert load_champion("toy", here.first, "bfloat16").precision == "float32"


@pytest.mark.integration
def test_no_copy_is_left(here: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that follows the registry for months loads many; where it lies does not matter."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    taken = load_champion("toy", here.first, "float32")
    assert taken.version == here.first
    assert not list(tmp_path.iterdir())


@pytest.mark.integration
def test_a_request_that_was_begun_is_answered(here: Place) -> None:
    """SIGTERM in its middle: it is answered, nobody else is, and the exit code is 0."""
    body = json.dumps(ASKED).encode()
    head = (
        "POST /invocations HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nexpect: 100-continue\r\n\r\n"
    )
    with served(here) as (at, process):
        place = urlsplit(f"http://{at}")
        with socket.create_connection((place.hostname or "", place.port or 0)) as connection:
            connection.settimeout(30)
            connection.sendall(head.encode())
            assert b"100 Continue" in connection.recv(1000)
            process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 10
            while takes_new(at):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            connection.sendall(body)
            answer = b""
            while piece := connection.recv(1000):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 200")
        assert b'"predictions"' in answer


def takes_new(at: str) -> bool:
    """Whether somebody still listens."""
    try:
        return ask(at, path="/health")[0] == 200
    except OSError:
        return False


@pytest.mark.integration
def test_a_champion_whose_files_are_gone(here: Place) -> None:
    """It goes on to be served from memory, and another one without files does not take over, which
    is told once; but without files nothing can be begun."""
    first = challenge("files", labelled=24)
    promoted("files")
    second = challenge("files")
    with served(here, "files") as (at, _):
        for gone in (first, second):
            shutil.rmtree(registry.download_model(f"models:/files/{gone}").parents[1])
        assert ask(at, ASKED)[:2] == (200, f"files/{first}")
        Ledger("files").client.set_registered_model_alias("files", "champion", second)
        lines = told_by(here, "cannot be loaded")
        assert ask(at, ASKED)[:2] == (200, f"files/{first}")
    (line,) = lines
    assert f"version {second} cannot be loaded" in line
    assert line.endswith(f"version {first} is served as before")
    assert "Traceback" not in (here.home / LOG).read_text()
    done = graft(here.folder, here.home, "serve", "files", "--port", "0")
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("graft:"))
    assert f"version {second} cannot be loaded" in line
    assert "Traceback" not in done.stderr


def told_by(place: Place, said: str) -> list[str]:
    """The lines of the log that say so, once there is one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := [one for one in (place.home / LOG).read_text().splitlines() if said in one]:
            return found
        time.sleep(0.2)
    raise AssertionError((place.home / LOG).read_text())


@pytest.mark.integration
def test_what_cannot_be_served(here: Place) -> None:
    """No such model, no champion, a port that is taken, a host that is another's: a line each."""
    challenge("new", labelled=24)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, message in (
            (["nobody", "--port", "0"], "model 'nobody' is not in the registry"),
            (
                ["new", "--port", "0"],
                "model 'new' has no champion; graft promote new may make its challenger",
            ),
            (["toy", "--port", port], f"nothing can listen at 127.0.0.1, port {port} (Address al"),
            (["toy", "--host", "192.0.2.1"], "nothing can listen at 192.0.2.1, port 5001 (Cannot"),
            (["toy", "--host", "no such"], "nothing can listen at no such, port 5001 ("),
            (["toy", "--host", ""], "--host: name an address"),
        ):
            done = graft(here.folder, here.home, "serve", *arguments)
            assert done.returncode == 2
            last = done.stderr.splitlines()[-1]
            assert last.startswith("graft: "), done.stderr
            assert message in last
            assert "Traceback" not in done.stderr
