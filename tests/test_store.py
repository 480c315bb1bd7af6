from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tasks import store
from tasks.errors import StoreError
from tasks.store import find, produce, stage_key


def writes(text: str = "rows") -> Callable[[Path], None]:
    """A stage that writes a file, and another in a folder."""

    def compute(work: Path) -> None:
        (work / "learner").mkdir(exist_ok=True)
        (work / "rows.txt").write_text(text)
        (work / "learner" / "heads").write_text("weights")

    return compute


def never(work: Path) -> NoReturn:
    raise AssertionError("computed although it was found")


def key() -> str:
    return stage_key("split", {"seed": 13}, {"rows": "d1"})


@pytest.mark.parametrize(
    ("stage", "config", "inputs"),
    [
        ("split", {"seed": 14}, {"rows": "d1"}),
        ("split", {"seed": 13, "share": None}, {"rows": "d1"}),
        ("split", {"seed": 13}, {"rows": "d2"}),
        ("split", {"seed": 13}, {"text": "d1"}),
        ("split", {"seed": 13}, {}),
        ("ingest", {"seed": 13}, {"rows": "d1"}),
    ],
)
def test_key_changes(stage: str, config: dict[str, object], inputs: dict[str, str]) -> None:
    """Another stage, configuration or input is another key."""
    assert stage_key(stage, config, inputs) != key()


def test_key_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other code is another key."""
    before = key()
    monkeypatch.setattr(store, "code_version", lambda: "other")
    assert key() != before


def test_key_holds() -> None:
    """The order in which a configuration is written does not matter."""
    left = stage_key("split", {"a": 1, "b": [1, 2]}, {"x": "1", "y": "2"})
    assert left == stage_key("split", {"b": [1, 2], "a": 1}, {"y": "2", "x": "1"})
    assert left != stage_key("split", {"a": 1, "b": [2, 1]}, {"x": "1", "y": "2"})


def test_code_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code's version follows its text and the libraries' versions, and nothing else."""
    copy = tmp_path / "tasks"
    shutil.copytree(Path(store.__file__).parent, copy)
    monkeypatch.setattr(store, "__file__", str(copy / "store.py"))
    versions = {"torch": "2.13.0"}
    monkeypatch.setattr(store, "version", lambda name: versions.get(name, "1"))
    fresh = store.code_version.__wrapped__
    first = fresh()
    (copy / "notes.txt").write_text("not code")
    assert fresh() == first

    with (copy / "learning" / "loop.py").open("a") as file:
        file.write("\n# another step\n")
    second = fresh()
    assert second != first

    versions["torch"] = "2.13.1"
    assert fresh() != second


def test_produce_then_find(home: Path) -> None:
    """An output is computed once, found afterwards, and lies under GRAFT_HOME."""
    first = produce("split", key(), writes())
    again = produce("split", key(), never)
    assert (first.cached, again.cached) == (False, True)
    assert first.path == again.path == home / "artifacts" / "split" / key()
    assert again.file("rows.txt").read_text() == "rows"
    assert find("split", key()) == again
    assert not list(first.path.parent.glob("*.work"))


def test_nothing_to_find() -> None:
    """What was never computed is not found."""
    assert find("split", key()) is None


def delete(path: Path) -> None:
    (path / "rows.txt").unlink()


def corrupt(path: Path) -> None:
    (path / "learner" / "heads").write_text("weightz")


def cut_short(path: Path) -> None:
    (path / "rows.txt").write_text("")


def lose_the_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


@pytest.mark.parametrize("damage", [delete, corrupt, cut_short, lose_the_manifest])
def test_damage_is_noticed(damage: Callable[[Path], None]) -> None:
    """An output that lost or changed a file is not used but computed again."""
    output = produce("split", key(), writes())
    damage(output.path)
    assert find("split", key()) is None
    again = produce("split", key(), writes())
    assert not again.cached
    assert again.file("rows.txt").read_text() == "rows"
    assert find("split", key()) is not None


@pytest.mark.parametrize("manifest", ["", "{", "{}", "[]", "null", '{"files": []}'])
def test_damaged_manifest(manifest: str) -> None:
    """A manifest that says nothing sensible is damage like any other."""
    output = produce("split", key(), writes())
    (output.path / "manifest.json").write_text(manifest)
    assert find("split", key()) is None


def test_killed_compute_goes_on() -> None:
    """What a killed computation left is not an output, and is offered to the next attempt."""

    def killed(work: Path) -> NoReturn:
        (work / "checkpoint.pt").write_text("step 100")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        produce("transfer", key(), killed)
    assert find("transfer", key()) is None

    seen = []

    def goes_on(work: Path) -> None:
        seen.append((work / "checkpoint.pt").read_text())
        (work / "checkpoint.pt").unlink()
        writes()(work)

    output = produce("transfer", key(), goes_on)
    assert seen == ["step 100"]
    assert sorted(p.name for p in output.path.iterdir()) == ["learner", "manifest.json", "rows.txt"]


def test_manifest_names_every_file() -> None:
    """The manifest holds each file's sha256, those in folders too."""
    output = produce("split", key(), writes())
    files = output.read_json("manifest.json")["files"]
    # printf rows | sha256sum
    assert files["rows.txt"] == "bc51e9e65d79e1c90ba544ab2eae1044ccdf8c1af7a559ba375cba4276f7d99e"
    assert set(files) == {"rows.txt", "learner/heads"}


def test_digest_of_a_part() -> None:
    """The digest of an output's part follows that part's bytes alone."""
    first = produce("split", "k1", writes("rows"))
    other = produce("split", "k2", writes("other rows"))
    assert first.digest("learner/") == other.digest("learner/")
    assert first.digest() != other.digest()
    assert first.digest("learner/") != first.digest()


def test_folder_digest(tmp_path: Path) -> None:
    """A folder's digest follows names and bytes, wherever the folder is."""
    left, right = tmp_path / "left", tmp_path / "right"
    for folder in (left, right):
        folder.mkdir()
        writes()(folder)
    assert store.folder_digest(left) == store.folder_digest(right)
    (right / "rows.txt").rename(right / "rows2.txt")
    assert store.folder_digest(left) != store.folder_digest(right)


def slowly(home: str, tally: str, start: object) -> None:
    """What one of several processes does: all want the same output at once."""
    os.environ["GRAFT_HOME"] = home

    def compute(work: Path) -> None:
        import time

        with Path(tally).open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        writes()(work)

    start.wait()
    output = produce("split", "contended", compute)
    assert output.file("rows.txt").read_text() == "rows"


def test_computed_once_by_two_processes(home: Path, tmp_path: Path) -> None:
    """Processes that want the same key at once take turns, and only the first computes."""
    context = multiprocessing.get_context("spawn")
    start, tally = context.Barrier(2), tmp_path / "tally"
    processes = [
        context.Process(target=slowly, args=(str(home), str(tally), start)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(tally.read_text().splitlines()) == 1


def refuse(number: int) -> Callable[..., NoReturn]:
    def refused(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number), "/data/artifacts/x")

    return refused


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("where", ["compute", "seal"])
def test_full_disk(number: int, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full or read-only disk is one line, with the file and what to do; nothing is left."""
    compute = refuse(number) if where == "compute" else writes()
    if where == "seal":
        monkeypatch.setattr(store, "seal", refuse(number))
    with pytest.raises(StoreError, match=os.strerror(number)) as caught:
        produce("split", key(), compute)
    assert "\n" not in str(caught.value)
    assert "/data/artifacts/x" in str(caught.value)
    assert "GRAFT_HOME" in str(caught.value)
    assert find("split", key()) is None


def test_full_disk_recovers() -> None:
    """Once there is space again, the same call succeeds."""
    with pytest.raises(StoreError):
        produce("split", key(), refuse(errno.ENOSPC))
    assert produce("split", key(), writes()).file("rows.txt").read_text() == "rows"


def test_unwritable_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that cannot be written is refused in one line before anything is computed."""
    monkeypatch.setattr(Path, "mkdir", refuse(errno.EACCES))
    with pytest.raises(StoreError, match="Permission denied") as caught:
        produce("split", key(), never)
    assert "\n" not in str(caught.value)


def test_home_is_a_file(home: Path) -> None:
    """A home that is a file is refused in one line."""
    home.write_text("not a folder")
    with pytest.raises(StoreError, match=str(home)) as caught:
        produce("split", key(), never)
    assert "\n" not in str(caught.value)


def test_other_failures_stay_themselves() -> None:
    """A bug in a stage is not dressed up as a full disk."""
    with pytest.raises(FileNotFoundError):
        produce("split", key(), refuse(errno.ENOENT))
