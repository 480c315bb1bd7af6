"""A small project in a folder: two data files, a tiny backbone, a pipelines.yaml."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from tests.tiny import reviews, write_backbone

PIPELINES = """\
pipelines:
  toy:
    description: From toy movies to toy products
    application: {kind: text_classification, labels: [negative, positive]}
    backbone: {path: backbone}
    sources:
      movies: {path: movies.jsonl}
    target:
      products: {path: products.jsonl, labelled: 24, split: {test: 0.5, validation: 0}}
    source_training: {epochs: 2, learning_rate: 1.0e-3, checkpoint_every: 5}
    paradigm: {kind: fine_tuning}
    training: {epochs: 2, learning_rate: 1.0e-3, tokens_per_batch: 128}
    validation: {near_duplicates: 1.0}
    evaluation: {resamples: 200}
    promotion: {model: toy}
"""


def write_project(folder: Path, rows: int = 160) -> Path:
    """Everything `graft run toy` needs. Ids keep texts apart, so that none is a duplicate."""
    folder.mkdir(parents=True, exist_ok=True)
    write_backbone(folder / "backbone")
    for seed, name in enumerate(("movies", "products")):
        write_rows(folder / f"{name}.jsonl", numbered(reviews(rows, seed), name))
    (folder / "pipelines.yaml").write_text(PIPELINES, encoding="utf-8")
    return folder


def write_promotable_project(folder: Path) -> Path:
    """As `write_project`, with products that have a test file of their own, `own`, and the same
    with training labels by chance, `shuffled`."""
    write_project(folder, rows=300)
    rows = numbered(reviews(600, seed=1), "products")
    train, test = rows[:300], rows[300:]
    drawn = random.Random(0)
    shuffled = [{**row, "label": drawn.choice(["positive", "negative"])} for row in train]
    for name, learned in (("own", train), ("shuffled", shuffled)):
        (folder / name).mkdir()
        write_rows(folder / name / "train.jsonl", learned)
        write_rows(folder / name / "test.jsonl", test)
    return folder


WRITING = """\
pipelines:
  toy:
    description: Opinions in other words
    application: {kind: translation, beams: 1, maximum_new_tokens: 8}
    backbone: {new: {vocabulary: 320, width: 32, layers: 1, heads: 2, feed_forward: 64}}
    sources:
      movies: {path: movies.jsonl}
    target:
      products: {path: products.jsonl, labelled: 24, split: {test: 0.5, validation: 0}}
    source_training: {epochs: 2, learning_rate: 1.0e-3}
    paradigm: {kind: domain_adaptation}
    training: {epochs: 2, learning_rate: 1.0e-3, tokens_per_batch: 128}
    validation: {near_duplicates: 1.0}
    evaluation: {resamples: 200}
    promotion: {model: toy}
"""


def write_writing_project(folder: Path) -> Path:
    """As `write_project`, of a new network that writes."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("movies", "products")):
        rows = numbered(reviews(60, seed), name)
        told = [{"text": row["text"], "translation": row["label"]} for row in rows]
        write_rows(folder / f"{name}.jsonl", told)
    (folder / "pipelines.yaml").write_text(WRITING, encoding="utf-8")
    return folder


TALKING = """\
pipelines:
  toy:
    description: Opinions, and what is said to them
    application: {kind: dialogue, beams: 1, maximum_new_tokens: 8, speaker: bot}
    backbone: {new: {vocabulary: 320, width: 32, layers: 1, heads: 2, feed_forward: 64}}
    sources:
      movies: {path: movies.jsonl}
    target:
      products: {path: products.jsonl, labelled: 24, tested: 40, split: {test: 0.5}}
    source_training: {epochs: 20, learning_rate: 5.0e-3}
    paradigm: {kind: fine_tuning}
    training: {epochs: 2, learning_rate: 1.0e-3, tokens_per_batch: 128}
    validation: {near_duplicates: 1.0}
    evaluation: {resamples: 200}
    promotion: {model: toy}
"""


def write_talking_project(folder: Path) -> Path:
    """As `write_writing_project`, of conversations; validation rows are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("movies", "products")):
        rows = numbered(reviews(120, seed), name)
        told = [
            {
                "context": [
                    {"role": "user", "content": "hello"},
                    {"role": "bot", "content": "yes"},
                    {"role": "user", "content": row["text"]},
                ],
                "response": row["label"],
            }
            for row in rows
        ]
        write_rows(folder / f"{name}.jsonl", told)
    (folder / "pipelines.yaml").write_text(TALKING, encoding="utf-8")
    return folder


def numbered(rows: Sequence[dict[str, str]], name: str) -> list[dict[str, str]]:
    """Each text with a number of its own."""
    return [{**row, "text": f"{row['text']} {name} {i}"} for i, row in enumerate(rows)]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def graft(
    folder: Path, home: Path, *arguments: str, given: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own; `given` is what it reads."""
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        input=given,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def command(*arguments: str) -> list[str]:
    """The `graft` of the environment the tests run in."""
    return [str(Path(sys.executable).parent / "graft"), *arguments]


def environment(home: Path) -> dict[str, str]:
    """This environment with a GRAFT_HOME of its own, and Prefect's home where Graft puts it."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PREFECT_HOME", "MLFLOW_TRACKING_URI")}
    return {**kept, "GRAFT_HOME": str(home), "OMP_NUM_THREADS": "1"}


Graft = Callable[..., "subprocess.Popen[str]"]
"""Starts the command; see the fixture."""


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def refusal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> str:
    """The one line on stderr of a command that must exit with 2."""
    monkeypatch.setattr(sys, "argv", ["graft", *(arguments or ("run", "toy"))])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 2, said
    assert len(said.splitlines()) == 1, said
    assert said.startswith("graft: ")
    return said


def waiting(url: str) -> str:
    """The id of the flow run that waits for an answer, once there is one."""
    states = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        for run in ask(f"{url}/flow_runs/filter", states):
            return str(run["id"])
        time.sleep(1)
    raise AssertionError("nothing waits")


LOCKED = 150.0
"""Seconds that a Prefect server on SQLite may need: it waits up to 60 for a lock, twice."""


def ask(url: str, body: dict[str, Any]) -> Any:
    """Post JSON to a server, and read its answer."""
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=LOCKED) as answer:
        return json.load(answer)
