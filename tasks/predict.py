"""The prediction stage: one learner's answers to a domain's test rows, in predictions.jsonl, and in
cut.json how many of the rows were too long for it.

It follows from the learner and the rows alone: another metric, or another paradigm beside the same
baseline, does not ask the learner again.
"""

from __future__ import annotations

import json
from pathlib import Path

from tasks import store
from tasks.config import Pipeline
from tasks.learning.contracts import Prediction
from tasks.stage import Stage
from tasks.training import read_rows

FILE = "predictions.jsonl"
CUT = "cut.json"


def stage(
    pipeline: Pipeline, split: store.Output, learner: store.Output, name: str, domain: str
) -> Stage:
    """Ask the system of this name about every test row of a domain."""
    test = f"{domain}/test.parquet"
    application = pipeline.application

    def compute(folder: Path) -> None:
        import torch

        from tasks.learning.learner import load_learner
        from tasks.learning.prediction import predict_examples

        loaded = load_learner(learner.file("learner"), {application.kind: application})
        examples = application.encode(read_rows(split.file(test)), loaded.tokenizer)
        torch.manual_seed(pipeline.seed)  # where words are drawn
        answers = predict_examples(loaded, application.kind, examples)
        text = "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
        (folder / FILE).write_text(text, encoding="utf-8")
        (folder / CUT).write_text(str(sum("cut" in one for one in examples)), encoding="utf-8")

    return Stage(
        "predict",
        name if domain == pipeline.target_name else f"{name} on {domain}",
        {"application": application.model_dump(mode="json"), "seed": pipeline.seed},
        {"test": split.digest(test), "learner": learner.digest("learner/")},
        compute,
    )


def read(output: store.Output) -> list[Prediction]:
    """The answers, in the order of the test rows."""
    with output.file(FILE).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
