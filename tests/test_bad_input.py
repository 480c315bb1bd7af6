"""Bad input through `graft run`: one line, exit code 2, nothing registered or half-written."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.project import PIPELINES, numbered, refusal, write_project, write_rows
from tests.tiny import reviews

pytestmark = pytest.mark.integration

PRODUCTS = "products.jsonl"


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One MLflow database for all cases: none may leave a model in it."""
    return tmp_path_factory.mktemp("bad") / "home"


@pytest.fixture
def project(tmp_path: Path, shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_project(tmp_path / "project", rows=40)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GRAFT_HOME", str(shared_home))
    return folder


def edit(*pairs: str) -> Callable[[Path], None]:
    """Change pipelines.yaml: what is there, what takes its place, and so on."""

    def change(folder: Path) -> None:
        text = PIPELINES
        for old, new in zip(pairs[::2], pairs[1::2], strict=True):
            assert old in text
            text = text.replace(old, new)
        (folder / "pipelines.yaml").write_text(text, encoding="utf-8")

    return change


def rows(change: Callable[[list[dict[str, str | None]]], None]) -> Callable[[Path], None]:
    """Change the target's rows."""

    def apply(folder: Path) -> None:
        made: list[dict[str, str | None]] = [dict(r) for r in numbered(reviews(40, 1), "x")]
        change(made)
        write_rows(folder / PRODUCTS, made)

    return apply


def raw(data: bytes, name: str = PRODUCTS) -> Callable[[Path], None]:
    """Give the target this file instead."""

    def apply(folder: Path) -> None:
        (folder / name).write_bytes(data)
        path = folder / "pipelines.yaml"
        path.write_text(PIPELINES.replace(PRODUCTS, name), encoding="utf-8")

    return apply


def some_rows() -> bytes:
    return "".join(json.dumps(row) + "\n" for row in numbered(reviews(40), "x")).encode()


def pickled(folder: Path) -> None:
    weights = folder / "backbone" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))


def cut_short(folder: Path) -> None:
    weights = folder / "backbone" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def unknown_network(folder: Path) -> None:
    (folder / "backbone" / "config.json").write_text('{"model_type": "nope"}', encoding="utf-8")


def no_configuration(folder: Path) -> None:
    (folder / "backbone" / "config.json").write_text("[]", encoding="utf-8")


def remote_code(folder: Path) -> None:
    path = folder / "backbone" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "auto_map": {"AutoModel": "x.Y"}}), encoding="utf-8")


def without_text(made: list[dict[str, str | None]]) -> None:
    made[6]["text"] = None


def odd_label(made: list[dict[str, str | None]]) -> None:
    made[6]["label"] = "neutral"


def one_class(made: list[dict[str, str | None]]) -> None:
    for row in made:
        row["label"] = "positive"


def source_of_one_class(folder: Path) -> None:
    kept = [row for row in numbered(reviews(60), "x") if row["label"] == "positive"]
    write_rows(folder / "movies.jsonl", kept)


def third_label(domain: str) -> Callable[[Path], None]:
    """A label that only one of the two domains has."""

    def apply(folder: Path) -> None:
        edit("labels: [negative, positive]", "labels: [negative, positive, neutral]")(folder)
        made = [dict(row) for row in numbered(reviews(90), "x")]
        for row in made[::3]:
            row["label"] = "neutral"
        write_rows(folder / f"{domain}.jsonl", made)

    return apply


CASES: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "unknown key": (
        edit("labelled: 24", "labeled: 24"), ["pipelines.yaml:9", "labeled", "labelled"]),
    "unknown kind": (
        edit("kind: fine_tuning", "kind: tuning"), ["yaml:11", '"tuning"', "fine_tuning"]),
    "wrong type": (
        edit("resamples: 200", "resamples: many"), ["pipelines.yaml:14", '"many"', "integer"]),
    "missing file": (
        edit(PRODUCTS, "nowhere.jsonl"), ["nowhere.jsonl", "no such file"]),
    "empty file": (raw(b""), [PRODUCTS, "empty"]),
    "wrong encoding": (raw(some_rows() + "é".encode("latin-1")), [f"{PRODUCTS}:41", "UTF-8"]),
    "missing text": (rows(without_text), [f"{PRODUCTS}:7", "text"]),
    "label outside the set": (
        rows(odd_label), [f"{PRODUCTS}:7", "'neutral'", "negative", "positive"]),
    "one class only in the target": (rows(one_class), ["products", "'positive'"]),
    "one class only in the source": (source_of_one_class, ["movies", "'positive'"]),
    "target label the source lacks": (third_label("products"), ["products", "'neutral'"]),
    "source label the target lacks": (third_label("movies"), ["movies", "'neutral'"]),
    "truncated gz": (
        raw(gzip.compress(some_rows())[:-20], "products.jsonl.gz"), ["products.jsonl.gz", "gzip"]),
    "truncated parquet": (raw(b"PAR1 and no more", "products.parquet"), ["products.parquet"]),
    "pickled backbone": (pickled, ["backbone", "safetensors"]),
    "remote code": (remote_code, ["backbone", "auto_map"]),
    "weights cut short": (cut_short, ["backbone", "transformers cannot load it"]),
    "an unknown network": (unknown_network, ["backbone", "transformers cannot load it", "nope"]),
    "no configuration": (no_configuration, ["config.json", "expected an object"]),
    "brackets without end": (raw(b'{"text": ' + b"[" * 100_000), [f"{PRODUCTS}:1", "not JSON"]),
    "too many layers frozen": (
        edit("{kind: fine_tuning}", "{kind: fine_tuning, freeze: 9}"), ["freeze", "9", "3"]),
    "nothing to stop early by": (
        edit("training: {epochs: 2", "training: {early_stopping: {patience: 1}, epochs: 2"),
        ["early_stopping", "split.validation"]),
    "a source without labels": (
        edit("{path: movies.jsonl}", "{path: movies.jsonl, labelled: 0}"),
        ["movies", "source_training", "`labelled`"]),
    "a rate that training does not survive": (
        edit("learning_rate: 1.0e-3, checkpoint_every", "learning_rate: 1.0e+30, checkpoint_every"),
        ["source", "no longer finite", "learning rate"]),
    "too many layers frozen, and no source training": (
        edit("{kind: fine_tuning}", "{kind: multi_task, freeze: 9}",
             "{epochs: 2, learning_rate: 1.0e-3, checkpoint_every: 5}", "null"),
        ["paradigm", "freeze", "9", "3"]),
    "too many layers frozen in the source training": (
        edit("checkpoint_every: 5", "freeze: 9", "    training:",
             "    pretraining: {steps: 2}\n    training:"),
        ["source_training", "freeze", "9", "3"]),
    "an encoder that is to write": (
        edit("kind: text_classification, labels: [negative, positive]", "kind: translation",
             "{path: movies.jsonl}", "{path: movies.jsonl, columns: {translation: label}}",
             "labelled: 24", "columns: {translation: label}, labelled: 24"),
        ["translation, which writes", "encoder alone", "seq2seq or causal"]),
    "a frozen backbone whose prototypes should move": (
        edit("{kind: fine_tuning}",
             "{kind: meta_learning, method: prototypical, shots: 2, queries: 2, freeze: 3}",
             "movies: {path: movies.jsonl}",
             "movies: {path: movies.jsonl}\n      films: {path: movies.jsonl}"),
        ["paradigm", "freeze is 3 of 3 layers", "leaves nothing"]),
    "a source that would watch the target": (
        edit("checkpoint_every: 5", "early_stopping: {watch: text}"),
        ["the source stage", "early_stopping.watch", "labels"]),
    "no labels to watch": (
        edit("{kind: fine_tuning}\n    training: {", "{kind: domain_adaptation}\n"
             "    training: {early_stopping: {patience: 1}, ", "labelled: 24", "labelled: 0"),
        ["labelled is 0", "watch: text"]),
    "no unlabelled text to watch": (
        edit("\n    training: {", "\n    training: {early_stopping: {watch: text}, ",
             "labelled: 24, ", ""),
        ["no unlabelled text", "labelled"]),
    "prototypes in a head with a hidden layer": (
        edit("{kind: fine_tuning}", "{kind: fine_tuning, head: prototypes}",
             "kind: text_classification", "hidden: 8, kind: text_classification"),
        ["application.hidden", "linear"]),
    "longer than the backbone takes": (
        edit("kind: text_classification", "kind: text_classification, maximum_tokens: 4096"),
        ["maximum_tokens", "4096", "512"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_refused(
    name: str,
    project: Path,
    shared_home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line that names the place, the value and what is accepted; nothing trained to the end."""
    spoil, expected = CASES[name]
    spoil(project)
    said = refusal(capsys, monkeypatch)
    for part in expected:
        assert part in said, said
    for stage in ("pretrain", "source", "transfer"):
        assert not list((shared_home / "artifacts" / stage).glob("*/manifest.json"))
    assert registered(shared_home) == []


def registered(home: Path) -> list[str]:
    import mlflow

    if not (home / "mlflow.db").exists():
        return []
    client = mlflow.MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    return [model.name for model in client.search_registered_models()]


def test_full_disk(
    project: Path,
    shared_home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk that fills up while a learner is written: one line, no output, nothing registered."""
    from tasks.learning.learner import Learner

    def full(self: Learner, folder: Path) -> None:
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr(Learner, "save", full)
    before = set(shared_home.glob("artifacts/*/*/manifest.json"))
    said = refusal(capsys, monkeypatch, "run", "toy", "--set", "seed=99")
    assert "No space left on device" in said
    assert "GRAFT_HOME" in said
    made = set(shared_home.glob("artifacts/*/*/manifest.json")) - before
    assert not [path for path in made if path.parts[-3] in ("source", "transfer", "register")]
    assert registered(shared_home) == []


def test_unreachable_tracking_server(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracking server that does not answer: one line, within seconds, no password in it."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@{address}")
    said = refusal(capsys, monkeypatch)
    assert address in said
    assert "MLFLOW_TRACKING_URI" in said
    assert "secret" not in said


def test_unwritable_folder(
    project: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A GRAFT_HOME that cannot be written is named before any server is started."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "file" / "home"))
    said = refusal(capsys, monkeypatch)
    assert str(tmp_path / "file" / "home") in said
    assert "GRAFT_HOME" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "nobody"], ["'nobody'", "toy"]),
        (["run"], ["--from-run"]),
        (["run", "toy", "--set", "training.epochs=two"], ["--set", "two", "integer"]),
        (["run", "toy", "--set", "training"], ["PATH=VALUE"]),
        (["run", "--from-run", "0" * 32], ["not a recorded run"]),
        (["check", "--file", "nowhere.yaml"], ["nowhere.yaml", "no such file"]),
        (["predict", "toy", "nowhere\0.csv"], []),
    ],
)
def test_refused_command(
    arguments: list[str],
    expected: list[str],
    project: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wrong arguments are refused in one line too."""
    said = refusal(capsys, monkeypatch, *arguments)
    for part in expected:
        assert part in said, said
