"""Sets whose texts are sorted into labels, or tagged with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.sets.layout import Cells, folder, laid_out, rows_of, without_dev

NEWSWIRE = {"person": "PER", "organisation": "ORG", "location": "LOC", "misc": "MISC"}
"""CoNLL's types, and what the contracts call them."""
GROUPS = {
    "media": ("magazines", "computer_video_games", "software"),
    "children": ("baby", "toys_games", "apparel"),
    "body": ("health_personal_care", "beauty", "grocery"),
    "outdoors": ("camera_photo", "sports_outdoors", "outdoor_living"),
}
"""Goods that are none of the four of `amazon`."""


def amazon() -> Cells:
    """Reviews of four kinds of goods, as the papers take them."""
    original = folder("clf_amazon_blitzer")
    domains = ("books", "dvd", "electronics", "kitchen")
    return pairs("amazon", {name: rows_of(sorted((original / name).iterdir())) for name in domains})


def held_out() -> Cells:
    """Reviews of four groups of other goods, to choose the settings of `amazon` by: as many that
    are not positive, up to three stars, as are."""
    sorts = {"t2": {-1: 0}, "t4": {-1: 0, 1: 1}}  # up to two stars; up to three, four and more
    found: dict[str, dict[str, int]] = {}
    for row in rows_of([folder("fs_arsc_amazon") / "train.jsonl.gz"]):
        goods, _, task = row["task"].partition(".")
        label = sorts.get(task, {}).get(row["label"])
        if label is not None:
            found.setdefault(goods, {}).setdefault(row["text"], label)
    return pairs("held-out", {name: balanced(found, goods) for name, goods in GROUPS.items()})


def balanced(
    found: Mapping[str, Mapping[str, int]], goods: Iterable[str]
) -> Iterator[dict[str, Any]]:
    """Of each of these goods as many negative reviews as positive ones, the first of either."""
    for one in goods:
        texts = {label: [t for t, said in found[one].items() if said == label] for label in (0, 1)}
        for both in zip(texts[0], texts[1], strict=False):
            yield from ({"text": text, "label": label} for label, text in enumerate(both))


def pairs(name: str, rows: Mapping[str, Iterable[dict[str, Any]]]) -> Cells:
    """Each to each: all labels of the source, the target's text alone, scored on all of it."""
    label_rule = {"negative": [0], "positive": [1]}
    whole = {domain: laid_out(name, f"{domain}.jsonl", found) for domain, found in rows.items()}
    for source in whole:
        for target in whole:
            if source == target:
                continue
            tested = laid_out(name, f"{target}/test.jsonl", rows_of([whole[target]]))
            read = {"label_rule": label_rule, "split": {"test": 0, "validation": 0}}
            yield (
                f"{source} {target}",
                {
                    "application": {
                        "kind": "text_classification",
                        "labels": ["negative", "positive"],
                        "maximum_tokens": 320,
                    },
                    "sources": {source: {"path": str(whole[source]), **read}},
                    "target": {
                        f"{target}_text": {
                            "path": str(tested.parent),
                            **read,
                            "labelled": 0,
                            "read_test_text": True,
                        }
                    },
                    "source_training": {
                        "epochs": 3,
                        "learning_rate": 1e-4,
                        "tokens_per_batch": 1024,
                        "dropout": 0,
                    },
                    "training": {
                        "epochs": 1,
                        "learning_rate": 5e-5,
                        "tokens_per_batch": 4096,
                        "dropout": 0,
                    },
                    "evaluation": {"metric": "accuracy", "baselines": ["majority", "source_only"]},
                },
            )


def arsc() -> Cells:
    """Twelve targets with ten labelled rows each; sources: 150 rows of each other domain's tasks.

    Epochs and rates were chosen on tasks of three source domains held out of the others.
    """
    few = folder("fs_arsc_amazon")
    read = {
        "label_rule": {"negative": [-1], "positive": [1]},
        "split": {"test": 0, "validation": 0},
    }
    sources = by_task(rows_of([few / "train.jsonl.gz"]))
    support = by_task(rows_of([few / "target_support.jsonl"]))
    test = by_task(rows_of([few / "test.jsonl.gz"]))
    large = {
        task: rows
        for task, rows in sources.items()
        if min(Counter(row["label"] for row in rows).values()) >= 20
    }
    paths = {task: laid_out("arsc", f"sources/{task}.jsonl", rows) for task, rows in large.items()}
    for task, rows in support.items():
        path = laid_out("arsc", f"{task}/train.jsonl", rows)
        laid_out("arsc", f"{task}/test.jsonl", test[task])
        yield (
            task,
            {
                "application": {
                    "kind": "text_classification",
                    "labels": ["negative", "positive"],
                    "maximum_tokens": 256,
                },
                "sources": {
                    name: {"path": str(source), **read, "labelled": 150}
                    for name, source in paths.items()
                },
                "target": {task: {"path": str(path.parent), **read}},
                "source_training": {"epochs": 1, "learning_rate": 5e-5, "dropout": 0},
                "training": {"epochs": 20, "learning_rate": 2e-4, "dropout": 0},
                "evaluation": {"metric": "accuracy"},
            },
        )


def entities() -> Cells:
    """News to politics, science, music, medicine and finance; 50 or 200 labelled sentences."""
    crossner = folder("ner_crossner")
    targets = {
        **{name: crossner / name for name in ("politics", "science", "music")},
        "medical": folder("ner_biomedical") / "ncbi_disease",
        "finance": folder("ner_finance_sec") / "sec",
    }
    news = {
        "path": str(without_dev("entities", "conll2003", crossner / "conll2003")),
        "application": {"kind": "ner", "labels": types(crossner / "conll2003")},
        "split": {"validation": 0},
    }
    for name, original in targets.items():
        path = without_dev("entities", name, original)
        # Finance has the newswire's four types, under shorter names.
        rule = {long: [short] for long, short in NEWSWIRE.items()} if name == "finance" else None
        for count, epochs in ((50, 40), (200, 20)):
            yield (
                f"{name} {count}",
                {
                    "application": {"kind": "ner", "labels": sorted(rule or types(path))},
                    "sources": {"news": news},
                    "target": {
                        name: {
                            "path": str(path),
                            "label_rule": rule,
                            "labelled": count,
                            "split": {"validation": 0},
                        },
                    },
                    "source_training": {"epochs": 2, "learning_rate": 2e-4, "dropout": 0},
                    "training": {"epochs": epochs, "learning_rate": 3e-4, "dropout": 0},
                    "evaluation": {"baselines": ["majority", "target_only"]},
                },
            )


def by_task(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """ "books.t2" -> its rows, under books_t2: a domain's name has no dot."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["task"].replace(".", "_"), []).append(row)
    return found


def types(path: Path) -> list[str]:
    """The entity types that a set's test rows have."""
    tags = {tag for row in rows_of(sorted(path.glob("test.jsonl*"))) for tag in row["tags"]}
    return sorted({tag.partition("-")[2] for tag in tags} - {""})
