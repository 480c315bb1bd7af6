"""`graft verify`: what a backup brings back is whole, and what was lost is told."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.registry import download_model
from tests.project import environment, graft, write_promotable_project
from tests.test_promote import challenge, promoted

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A project, and a home with a champion and the one before it."""
    folder = write_promotable_project(tmp_path_factory.mktemp("project"))
    home = tmp_path_factory.mktemp("verify") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_HOME", str(home))
        patch.chdir(folder)
        for labelled in (24, 240):
            challenge("toy", labelled=labelled)
            promoted("toy")
    return folder, home


def parts(folder: Path, home: Path) -> dict[str, bool]:
    """What `graft verify` finds of each part; its exit code says the same."""
    done = graft(folder, home, "verify", "--json")
    found = {one["part"]: bool(one["whole"]) for one in json.loads(done.stdout)}
    assert done.returncode == (0 if all(found.values()) else 2), done.stderr
    return found


def test_a_restored_backup(grown: tuple[Path, Path], tmp_path: Path) -> None:
    """README's way, while nothing is lost: the database first, then the files; back in their place
    after all was gone, history and both versions are whole."""
    folder, home = grown
    whole = {"history": True, "version 2": True, "version 1": True}
    assert parts(folder, home) == whole
    with (
        closing(sqlite3.connect(home / "mlflow.db")) as live,
        closing(sqlite3.connect(tmp_path / "mlflow.db")) as copy,
    ):
        live.backup(copy)
    shutil.copytree(home / "mlartifacts", tmp_path / "mlartifacts")
    shutil.rmtree(home)
    home.mkdir()
    shutil.copy(tmp_path / "mlflow.db", home)
    shutil.copytree(tmp_path / "mlartifacts", home / "mlartifacts")
    assert parts(folder, home) == whole
    said = graft(folder, home, "verify", "toy").stdout
    assert "toy history: whole: 2 entries and their evidence are whole" in said
    assert "when it was made" in said
    assert graft(folder, home, "predict", "toy", "a fine film").returncode == 0


@pytest.fixture
def weights(grown: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The champion's, put back in the end."""
    monkeypatch.setenv("GRAFT_HOME", str(grown[1]))
    folder = download_model("models:/toy/2") / "learner"
    path = max(folder.rglob("*.safetensors"), key=lambda one: one.stat().st_size)
    kept = path.read_bytes()
    yield path
    path.write_bytes(kept)


def test_a_version_that_is_not_what_it_was(grown: tuple[Path, Path], weights: Path) -> None:
    """Weights that are gone, cut off, or another's: that version is not whole, the rest is."""
    lost = {"history": True, "version 2": False, "version 1": True}
    kept = weights.read_bytes()
    other = {name: torch.randn_like(tensor) for name, tensor in load_file(weights).items()}
    save_file(other, weights)
    assert parts(*grown) == lost
    weights.write_bytes(kept[:-1000])
    assert parts(*grown) == lost
    weights.unlink()
    assert parts(*grown) == lost


def test_a_history_that_lost_an_entry(grown: tuple[Path, Path]) -> None:
    """Its line says so, and exit code 2; versions that have an alias are scored all the same."""
    folder, home = grown
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        (row,) = database.execute("SELECT key, value, run_uuid FROM params WHERE key = '000001'")
        database.execute("DELETE FROM params WHERE key = '000001'")
        database.commit()
        assert parts(folder, home) == {"history": False, "version 2": True}
        database.execute("INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)", row)
        database.commit()
    assert parts(folder, home)["history"]


def test_nothing_to_check(tmp_path: Path) -> None:
    """No model is no fault; one that is asked for and not there is."""
    folder = write_promotable_project(tmp_path / "project")
    done = graft(folder, tmp_path / "home", "verify")
    assert (done.returncode, done.stdout) == (0, "no model is registered\n")
    done = graft(folder, tmp_path / "home", "verify", "toy")
    assert (done.returncode, done.stderr) == (2, "graft: model 'toy' is not in the registry\n")


def test_a_database_of_an_older_mlflow(tmp_path: Path) -> None:
    """`graft up`'s migration brings it up to date; a second time there is nothing to do."""
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.exceptions import MlflowException
    from mlflow.store.db import utils
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    url = f"sqlite:///{tmp_path / 'mlflow.db'}"
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    config = utils._get_alembic_config(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        last = ScriptDirectory.from_config(config).get_revision("head")
        assert last
        command.upgrade(config, str(last.down_revision))
    with pytest.raises(MlflowException, match="out-of-date"):
        utils._verify_schema(engine)
    variables = {**environment(tmp_path / "home"), "MLFLOW_BACKEND_STORE_URI": url}
    migrate = [sys.executable, "-P", "-m", "flows.migrate"]
    for _ in range(2):
        subprocess.run(migrate, env=variables, check=True, capture_output=True)
        utils._verify_schema(engine)
