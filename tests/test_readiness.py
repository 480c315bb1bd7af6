"""What is refused after the split and before any training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks import readiness, store
from tasks.config import Pipeline, Validation
from tasks.errors import ConfigError, DataRejected

APART = ["B-person O O", "O B-place O", "O O B-product"] * 8
TOGETHER = ["B-person B-place B-product"] * 24


def pipeline(paradigm: dict[str, Any]) -> Pipeline:
    return Pipeline.model_validate(
        {
            "application": {"kind": "ner", "labels": ("person", "place", "product")},
            "backbone": {"path": "none"},
            "sources": {"news": {"path": "none"}},
            "target": {"contracts": {"path": "none"}},
            "paradigm": paradigm,
            "promotion": {"model": "contracts"},
        }
    )


def news(tags: Sequence[str]) -> store.Output:
    def write(folder: Path) -> None:
        rows = [{"tokens": "one two three", "tags": one} for one in tags]
        (folder / "news").mkdir()
        pq.write_table(pa.Table.from_pylist(rows), folder / "news" / "train.parquet")

    return store.produce("split", store.digest(list(tags)), write)


def test_episodes_that_cannot_be_drawn(home: Path) -> None:
    """Two labels of three, and each sentence has all three: no row is of the two alone."""
    config = pipeline({"kind": "meta_learning", "ways": 2, "shots": 2, "queries": 2})
    readiness.episodes(config, news(APART))
    with pytest.raises(ConfigError, match=r"news: an episode takes 2 \+ 2 rows of each of 2"):
        readiness.episodes(config, news(TOGETHER))
    readiness.episodes(pipeline({"kind": "fine_tuning"}), news(TOGETHER))


@pytest.mark.parametrize(
    ("given", "texts", "enough"), [(9, 0, False), (9, 1, False), (9, 2, True), (1, 9, False)]
)
def test_text_to_adapt_to(given: int, texts: int, *, enough: bool) -> None:
    """One text has no spread, and none cannot be told from the source's."""
    counts = dict.fromkeys(("train", "validation", "test", "unlabelled"), 0)
    both = {
        "news": {**counts, "train": given},
        "contracts": {**counts, "test": 9, "unlabelled": texts},
    }
    config = pipeline({"kind": "domain_adaptation"})
    if enough:
        readiness.rows(config, both)
    else:
        with pytest.raises(DataRejected, match="two texts"):
            readiness.rows(config, both)


def test_a_vocabulary_that_does_not_know_the_script(backbone: Path) -> None:
    """Unknown words are counted in all that is read; above the limit nothing is trained."""
    from tasks.learning.learner import new_learner

    config = pipeline({"kind": "fine_tuning"})

    def write(folder: Path) -> None:
        told = {"news": "the movie was great", "contracts": "the movie ئەپ تور"}
        for name, tokens in told.items():
            (folder / name).mkdir()
            rows = [{"tokens": tokens, "tags": "O O O O"}] * 3
            table = pa.Table.from_pylist(rows)
            pq.write_table(table, folder / name / "train.parquet")
            pq.write_table(table.slice(0, 0), folder / name / "unlabelled.parquet")

    split = store.produce("split", store.digest("scripts"), write)
    learner = new_learner(backbone, {"ner": config.application})
    with pytest.raises(
        DataRejected, match=r"contracts: the backbone's vocabulary does not kn.* 50%"
    ):
        readiness.unknown(config, learner, split)
    (split.path / "contracts" / "train.parquet").rename(
        split.path / "contracts" / "unlabelled.parquet"
    )
    empty = pq.read_table(split.file("contracts/unlabelled.parquet")).slice(0, 0)
    pq.write_table(empty, split.path / "contracts" / "train.parquet")
    with pytest.raises(DataRejected, match=r"contracts: .* 50%"):
        readiness.unknown(config, learner, split)
    lenient = config.model_copy(update={"validation": Validation(unknown_over=0.5)})
    assert readiness.unknown(lenient, learner, split) == {"news": 0, "contracts": 0.5}
