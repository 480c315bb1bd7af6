"""The registration stage: the transferred model, its own code, its card, in the MLflow registry."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks import store
from tasks.card import card
from tasks.registry import register_model, registered
from tasks.stage import Stage
from tasks.tracking import Tracker, tracking_uri, without_credentials

PACKAGE = Path(__file__).parent


def stage(
    tracker: Tracker, split: store.Output, learner: store.Output, evaluation: store.Output
) -> Stage:
    """Register the learner under `promotion.model` with the alias `challenger`."""
    pipeline = tracker.pipeline

    def compute(folder: Path) -> None:
        from tasks.learning import serving
        from tasks.training import read_rows

        data, code = folder / "model", folder / "tasks"
        shutil.copytree(learner.file("learner"), data / "learner", dirs_exist_ok=True)
        serving.describe(data, pipeline.application)
        copy_code(code)
        report = evaluation.read_json("report.json")
        counts = split.read_json("report.json")["domains"]
        trained = learner.read_json("training.json")
        digests = {name: split.digest(f"{name}/") for name in pipeline.domains}
        told = card(tracker.name, pipeline, report, counts, digests, trained, tracker.parent)
        (data / "README.md").write_text(told, encoding="utf-8")
        parts = (f"{pipeline.target_name}/{part}.parquet" for part in ("train", "unlabelled"))
        rows = next(found for part in parts if (found := read_rows(split.file(part))))[:2]
        asked = zip(pipeline.application.request, pipeline.application.inputs, strict=True)
        example = {column: [row[field] for row in rows] for column, field in asked}
        registration = register(tracker, made.key, data, code, example, told)
        shutil.rmtree(data)  # the registry has its own copy
        shutil.rmtree(code)
        (folder / "registration.json").write_text(json.dumps(registration), encoding="utf-8")

    made = Stage(
        "register",
        pipeline.promotion.model,
        {
            "name": tracker.name,
            "pipeline": pipeline.model_dump(mode="json"),  # the card speaks of all of it
            "registry": without_credentials(tracking_uri()),
        },
        {"learner": learner.digest("learner/"), "evaluation": evaluation.digest("report.json")},
        compute,
    )
    held = store.find(made.name, made.key)
    if held and not still_registered(held):
        shutil.rmtree(held.path)
    return made


def register(
    tracker: Tracker, key: str, data: Path, code: Path, example: Mapping[str, Any], card: str
) -> dict[str, str]:
    """Try the model on its example, then hand it to the registry."""
    import pandas as pd

    from tasks.learning.serving import ServedModel

    table = pd.DataFrame(example)
    output = ServedModel(data).predict(table)
    return register_model(tracker, key, data, code, table, output, card)


def still_registered(output: store.Output) -> bool:
    """Whether the version an earlier run registered is still in the registry."""
    found = output.read_json("registration.json")
    return registered(found["model"], found["version"]) is not None


def copy_code(destination: Path) -> None:
    """The part of Graft that a registered model needs: `tasks/learning`, nothing else."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(
        PACKAGE / "learning", destination / "learning", ignore=ignore, dirs_exist_ok=True
    )
    (destination / "__init__.py").write_text('"""What a registered model needs of Graft."""\n')
