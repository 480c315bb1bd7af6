"""The `graft` command's smaller half: what it prints, and that scripts can read it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from flows import cli
from tests.project import write_project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_project(tmp_path / "project", rows=4)
    monkeypatch.chdir(folder)
    return folder


def said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> str:
    monkeypatch.setattr(sys, "argv", ["graft", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.usefixtures("project")
def test_list_show_check(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """list and check name the pipelines; show fills in every default; JSON parses."""
    assert json.loads(said(capsys, monkeypatch, "list", "--json")) == {
        "toy": "From toy movies to toy products"
    }
    assert "toy" in said(capsys, monkeypatch, "list")
    assert "1 pipeline(s) in order: toy" in said(capsys, monkeypatch, "check")
    shown = json.loads(said(capsys, monkeypatch, "show", "toy", "--json", "--set", "seed=3"))
    assert shown["seed"] == 3
    assert shown["training"]["weight_decay"] == 0.01
    assert "weight_decay: 0.01" in said(capsys, monkeypatch, "show", "toy")


@pytest.mark.usefixtures("project")
def test_what_show_prints_can_be_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configuration that was recorded resolves to the same pipeline."""
    from tasks.load import load, resolve

    shown = said(capsys, monkeypatch, "show", "toy", "--json")
    assert resolve(shown) == load(Path("pipelines.yaml"), "toy")


@pytest.mark.parametrize(
    "command", ["run", "list", "show", "check", "predict", "serve", "doctor", "schema"]
)
def test_help(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command says what it does."""
    assert "Usage:" in said(capsys, monkeypatch, command, "--help")


@pytest.mark.integration
def test_doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """doctor names versions, device, precision, disk and the tracking server."""
    found = json.loads(said(capsys, monkeypatch, "doctor", "--json"))
    assert found["device"] in ("cpu", "cuda")
    assert found["MLflow"].endswith("answers")
    assert {"python", "torch", "prefect", "bfloat16", "disk free", "GRAFT_MIRROR"} <= set(found)


def test_a_refusal_keeps_its_traceback_with_debug(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--debug lets the exception through."""
    from tasks.errors import ConfigError

    monkeypatch.setattr(sys, "argv", ["graft", "--debug", "check", "-f", "nowhere.yaml"])
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        cli.main()


@pytest.mark.parametrize("command", ["approve 0 --by Graft", "rollback toy --by graft"])
def test_a_person_is_not_called_as_evidence_is(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The history would not tell them apart."""
    monkeypatch.setattr(sys, "argv", ["graft", *command.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "'graft' is what evidence alone goes by" in capsys.readouterr().err
