"""Bad texts to learn writing from, through `graft run`: one line, exit code 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.project import refusal, write_rows, write_writing_project
from tests.tiny import write_causal

pytestmark = pytest.mark.integration

PRODUCTS = "products.jsonl"


def edit(folder: Path, *pairs: str) -> None:
    """Change pipelines.yaml: what is there, what takes its place, and so on."""
    path = folder / "pipelines.yaml"
    text = path.read_text(encoding="utf-8")
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def pairs(folder: Path, told: Callable[[int], str]) -> None:
    """Give the target these translations."""
    rows = [{"text": f"the movie number {i}", "translation": told(i)} for i in range(60)]
    write_rows(folder / PRODUCTS, rows)


def lines(folder: Path) -> None:
    """A text has no line beside it."""
    (folder / "side").mkdir()
    (folder / "side" / "train.en").write_text("a b\nc d\n", encoding="utf-8")
    (folder / "side" / "train.tr").write_text("e f\n", encoding="utf-8")
    edit(folder, f"path: {PRODUCTS}",
         "path: side, format: moses, columns: {text: en, translation: tr}")  # fmt: skip


def empty(folder: Path) -> None:
    pairs(folder, lambda i: "" if i % 2 else f"good {i}")


def same(folder: Path) -> None:
    pairs(folder, lambda i: f"the movie number {i}")


def other_script(folder: Path) -> None:
    pairs(folder, lambda i: f"good {i}")
    edit(folder, "kind: translation", "kind: translation, script: Arabic")


def no_response(folder: Path) -> None:
    """Every conversation of the target has one turn."""
    said = "".join(f"- - number {i}\n" for i in range(60))
    (folder / "products.yml").write_text(f"conversations:\n{said}", encoding="utf-8")
    talk = [{"context": f"the movie {i}", "response": f"good {i}"} for i in range(60)]
    write_rows(folder / "movies.jsonl", talk)
    edit(folder, "kind: translation", "kind: dialogue",
         f"path: {PRODUCTS}", "path: products.yml, format: chatterbot")  # fmt: skip


def without(*tokens: str) -> Callable[[Path], None]:
    """The backbone's tokenizer lacks these."""

    def spoil(folder: Path) -> None:
        path = write_causal(folder / "backbone") / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        kept = {name: told for name, told in settings.items() if name not in tokens}
        path.write_text(json.dumps(kept), encoding="utf-8")
        edit(folder, "new: {vocabulary: 320, width: 32, layers: 1, heads: 2, feed_forward: 64}",
             "path: backbone")  # fmt: skip

    return spoil


CASES = {
    "texts and translations of other numbers": (lines, ["side/train", "2", "1"]),
    "empty translations": (empty, [f"{PRODUCTS}:2", "translation"]),
    "translations that are the text": (same, ["the text itself in 60 of 60 rows", "columns"]),
    "another script": (other_script, ["60 of 60 texts to be written have no letter of the Arabic"]),
    "conversations with no response": (
        no_response,
        ["products.yml", "all 60 are left out, since nobody responds"],
    ),
    "neither padding nor an end": (without("pad_token", "eos_token"), ["backbone", "padding"]),
    "no end": (without("eos_token"), ["no token that ends a text"]),
}


@pytest.mark.parametrize("name", CASES)
def test_refused(
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It names the place, and what is wrong with it."""
    spoil, expected = CASES[name]
    folder = write_writing_project(tmp_path / "project")
    monkeypatch.chdir(folder)
    spoil(folder)
    said = refusal(capsys, monkeypatch)
    for part in expected:
        assert part in said, said
