"""Every paradigm with every application on every kind of backbone that can do it: three steps, a
score, and the same weights again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from tasks.learning import loop, prediction
from tasks.learning.applications import AnyApplication
from tasks.learning.batches import Stream, Streams
from tasks.learning.contracts import Application, Paradigm, Row
from tasks.learning.episodes import classes_of
from tasks.learning.learner import Learner, load_learner, new_learner
from tasks.learning.paradigms import AnyParadigm
from tests.tiny import reviews, score

TAGGED: list[Row] = [
    {"tokens": f"the {word} was {opinion}", "tags": "O B-thing O O"}
    for word in ("phone", "camera", "book")
    for opinion in ("bad", "great", "so")
]
TRANSLATED: list[Row] = [
    {"text": f"the {word} was {opinion}", "translation": f"{opinion} {word}"}
    for word in ("phone", "camera", "book")
    for opinion in ("bad", "great", "so")
]
SUMMARIZED: list[Row] = [
    {"text": row["text"], "summary": f"{row['translation']}\nso {row['translation']}"}
    for row in TRANSLATED
]
TALKED: list[Row] = [
    {"context": f"it was {row['text']}\nfine\n{row['text']}", "response": row["translation"]}
    for row in TRANSLATED
]
BACKBONES = {
    "text_classification": ("encoder", "seq2seq", "causal"),
    "ner": ("encoder", "seq2seq", "causal"),
    "translation": ("seq2seq", "causal"),
    "summarization": ("seq2seq", "causal"),
    "dialogue": ("seq2seq", "causal"),
}
APPLICATIONS: dict[str, tuple[dict[str, Any], Sequence[Row]]] = {
    "text_classification": ({"labels": ("negative", "positive")}, reviews(12)),
    "ner": ({"labels": ("thing",)}, TAGGED),
    "translation": ({"maximum_new_tokens": 8, "beams": 1}, TRANSLATED),
    "summarization": ({"maximum_new_tokens": 8, "beams": 1}, SUMMARIZED),
    "dialogue": ({"maximum_new_tokens": 8, "beams": 1}, TALKED),
}
"""Kind -> its settings, and rows it can learn from."""
PARADIGMS: dict[str, list[dict[str, Any]]] = {
    "fine_tuning": [{}, {"freeze": 1}, {"lora": {}}, {"gradual_unfreezing": True}],
    "feature_extraction": [{}],
    "multi_task": [{}, {"lora": {}}, {"weights": "uncertainty", "freeze": 1}],
    "domain_adaptation": [
        {},
        {"method": "mmd", "lora": {}},
        {"method": "coral", "freeze": 1},
        {"method": "information"},
    ],
    "meta_learning": [
        {"method": "maml", "steps": 3, "shots": 2, "queries": 1},
        {"method": "fomaml", "steps": 3, "shots": 2, "queries": 1, "lora": {}},
        {"method": "reptile", "steps": 3, "shots": 2, "queries": 1},
        {"method": "prototypical", "steps": 3, "shots": 2, "queries": 1, "freeze": 1},
    ],
}
"""Kind -> the settings it is tried with."""
LABELLED = {"text_classification", "ner"}
OF_LABELS = {"information", "prototypical"}
"""Methods that are about labels."""
GRID = [
    pytest.param(
        application,
        {"kind": paradigm, **options},
        backbone,
        id=f"{application}-{paradigm}-{i}-{backbone}",
    )
    for application, backbones in BACKBONES.items()
    for backbone in backbones
    for paradigm, variants in PARADIGMS.items()
    for i, options in enumerate(variants)
    if application in LABELLED or options.get("method") not in OF_LABELS
]


def members(union: Any) -> dict[str, Callable[..., Any]]:
    """kind -> class, of a discriminated union."""
    classes = get_args(get_args(union)[0])
    return {get_args(one.model_fields["kind"].annotation)[0]: one for one in classes}


def started(backbone: Path, tasks: dict[str, Application]) -> Learner:
    torch.manual_seed(0)
    return new_learner(backbone, tasks)


def train(
    learner: Learner, paradigm: Paradigm, rows: dict[str, Sequence[Row]], folder: Path
) -> None:
    def stream(task: str, *, supervised: bool = True) -> Stream:
        application = learner.tasks[task]
        examples = application.encode(rows[task], learner.tokenizer, supervised=supervised)
        classes = [classes_of(application, row) for row in rows[task]]
        return Stream(task, examples, pad_id=0, budget=64, seed=3, classes=classes)

    folder.mkdir()
    target, *others = rows
    streams = Streams(
        stream(target),
        target,
        {name: stream(name) for name in others},
        stream(target, supervised=False),
    )
    schedule = loop.Schedule(steps=3, learning_rate=1e-2, precision="float32")
    for one in filter(None, (paradigm, paradigm.adaptation)):
        (folder / one.kind).mkdir()
        one.initialise(learner, streams)
        before = network(learner)
        loop.train(learner, one, one.plan(streams), schedule, folder / one.kind)
        moved = any(not value.equal(before[name]) for name, value in network(learner).items())
        assert moved != one.frozen_backbone, f"{one.kind}: did its backbone move? {moved}"


def network(learner: Learner) -> dict[str, torch.Tensor]:
    """The backbone's weights as they are now, adapters folded in."""
    backbone = copy.deepcopy(learner.backbone)
    backbone.merge_adapters()
    return dict(backbone.state_dict())


def test_the_grid_is_whole() -> None:
    """A new application or paradigm is covered, or this fails."""
    assert set(members(AnyApplication)) == set(APPLICATIONS)
    assert set(members(AnyParadigm)) == set(PARADIGMS)


@pytest.mark.parametrize(("application", "settings", "kind"), GRID)
def test_cell(
    application: str,
    settings: dict[str, Any],
    kind: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    """Trains on the target beside a source of another application, scores, and loads again."""
    backbone: Path = request.getfixturevalue("backbone" if kind == "encoder" else kind)
    classes = members(AnyApplication)
    tasks: dict[str, Application] = {}
    rows: dict[str, Sequence[Row]] = {}
    able = [
        name
        for name, kinds in BACKBONES.items()
        if kind in kinds
        and name != application
        and (name in LABELLED or settings.get("method") not in OF_LABELS)
    ]
    for name in (application, *able):
        options, rows[name] = APPLICATIONS[name]
        tasks[name] = classes[name](kind=name, **options)
    paradigm: Paradigm = members(AnyParadigm)[settings["kind"]](**settings)

    learner = started(backbone, tasks)
    head = {n: p.detach().clone() for n, p in learner.heads[application].named_parameters()}
    train(learner, paradigm, rows, tmp_path / "first")
    moved = [n for n, p in learner.heads[application].named_parameters() if not p.equal(head[n])]
    assert moved, "the target's head did not move"
    assert all(p.isfinite().all() for p in learner.parameters())

    again = started(backbone, tasks)
    train(again, paradigm, rows, tmp_path / "again")
    for name, value in learner.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), f"{name} differs from run to run"

    learner.save(tmp_path / "learner")
    served = load_learner(tmp_path / "learner", {application: tasks[application]})
    asked = rows[application][:4]
    assert prediction.predict(served, application, asked) == prediction.predict(
        learner, application, asked
    )
    scores = score(learner, application, rows[application])
    assert tasks[application].metric in scores
