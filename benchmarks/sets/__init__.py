"""The benchmark sets as pipelines: which source, which target, how many labels.

Read from the folder that GRAFT_BENCHMARKS names; its READMEs have origins and licences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from benchmarks.sets.labelled import amazon, arsc, entities, held_out
from benchmarks.sets.layout import Cells
from benchmarks.sets.written import dialogues, news, strings, summaries
from tasks import load

PIPELINES = Path(__file__).parents[2] / "pipelines.yaml"


def labels(name: str) -> Cells:
    """A shipped pipeline to `products` with 5 to 200 labels, seen the more often the fewer they
    are; trained on its sources and on the target as `reviews` is."""
    reviews = load.load(PIPELINES, "reviews").model_dump(mode="json")
    for count in (5, 10, 20, 50, 100, 200):
        changes = [f"target.products.labelled={count}"]
        pipeline = load.load(PIPELINES, name, changes).model_dump(mode="json")
        given = {key: pipeline[key] for key in pipeline.keys() - {"paradigm"}}
        given["source_training"] = reviews["source_training"]
        given["training"] = {**reviews["training"], "epochs": max(5, 400 // count)}
        yield f"{count} labels", given


SETS: Mapping[str, Callable[[], Cells]] = {
    "amazon": amazon,
    "held-out": held_out,
    "arsc": arsc,
    "entities": entities,
    "labels": partial(labels, "reviews"),
    "labels-3": partial(labels, "few"),
    "strings": strings,
    "news": news,
    "summaries": summaries,
    "summaries-2": partial(summaries, several=True),
    "dialogues": dialogues,
    "dialogues-2": partial(dialogues, several=True),
}
