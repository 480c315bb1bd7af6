"""The benchmark sets as pipelines: which source, which target, how many labels.

Read from the folder that GRAFT_BENCHMARKS names; its READMEs have origins and licences. What the
published protocols want in other files than the folder has (all rows of a domain in one, one task
in one) is laid out under GRAFT_HOME first. From there on it is ordinary ingestion.
"""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tasks import load, store
from tasks.errors import ConfigError

PIPELINES = Path(__file__).parents[1] / "pipelines.yaml"
NEWSWIRE = {"person": "PER", "organisation": "ORG", "location": "LOC", "misc": "MISC"}
"""CoNLL's types, and what the contracts call them."""
Cells = Iterator[tuple[str, dict[str, Any]]]
"""Target -> a pipeline without its paradigm."""


def benchmarks() -> Path:
    """The folder with the benchmark sets.

    Raises:
        ConfigError: GRAFT_BENCHMARKS does not name one.
    """
    folder = Path(os.environ.get("GRAFT_BENCHMARKS", ""))
    if not os.environ.get("GRAFT_BENCHMARKS") or not folder.is_dir():
        raise ConfigError("GRAFT_BENCHMARKS must name the folder with the benchmark sets")
    return folder


def amazon() -> Cells:
    """Twelve pairs: all labels of the source, the target's text alone, scored on all of it."""
    domains = ("books", "dvd", "electronics", "kitchen")
    label_rule = {"negative": [0], "positive": [1]}
    whole = {
        name: laid_out(
            "amazon",
            f"{name}.jsonl",
            rows_of(sorted((folder("clf_amazon_blitzer") / name).iterdir())),
        )
        for name in domains
    }
    for source in domains:
        for target in domains:
            if source == target:
                continue
            tested = laid_out("amazon", f"{target}/test.jsonl", rows_of([whole[target]]))
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


def translations(
    name: str, languages: Mapping[str, Path], *, vocabulary: int, tokens: int, epochs: int
) -> Cells:
    """Parallel text of richer pairs to that of a poorer one, the last, with 500, 1,500 or all of
    its rows, by a network made from them all. The fewer they are, the more often they are seen."""

    def spoken(language: str) -> dict[str, Any]:
        return {"kind": "translation", "prefix": f">>{language}<< ", "maximum_tokens": tokens,
                "maximum_new_tokens": tokens}  # fmt: skip

    def read(language: str) -> dict[str, Any]:
        return {
            "path": str(without_dev(name, language, languages[language])),
            "columns": {"text": "src", "translation": "tgt"},
            "split": {"validation": 0},
        }

    *richer, poorer = languages
    rates = {"learning_rate": 5e-4, "tokens_per_batch": 2048}
    for count in (500, 1500, None):
        yield (
            f"{poorer} {count or 'all'}",
            {
                "application": spoken(poorer),
                "backbone": {"new": {"vocabulary": vocabulary, "feed_forward": 512}},
                "sources": {one: {**read(one), "application": spoken(one)} for one in richer},
                "target": {poorer: {**read(poorer), "labelled": count}},
                "source_training": {"epochs": epochs, **rates},
                "training": {"epochs": 3 * epochs if count else 2 * epochs, **rates},
            },
        )


def strings() -> Cells:
    """Interface strings: Turkish and Kazakh, then Uyghur, which has a script of its own."""
    gnome = folder("mt_gnome_ui")
    languages = {code: gnome / f"en-{code}" for code in ("tr", "kk", "ug")}
    return translations("strings", languages, vocabulary=4000, tokens=64, epochs=20)


def news() -> Cells:
    """News: Swahili, then Zulu, both Bantu languages."""
    mafand = folder("mt_mafand")
    languages = {code: mafand / f"en-{code}" for code in ("swa", "zul")}
    return translations("news", languages, vocabulary=8000, tokens=128, epochs=10)


def summaries(*, several: bool = False) -> Cells:
    """Headlines of business news to one sentence on a paper, or on a clause of a contract.

    With `several`, from headlines and papers to contracts, for what takes more than one source.
    """
    application = {
        "kind": "summarization",
        "prefix": "summarize: ",
        "maximum_tokens": 256,
        "maximum_new_tokens": 48,
        "beams": 2,
    }

    def read(name: str, original: str, summary: str) -> dict[str, Any]:
        return {
            "path": str(without_dev("summaries", name, folder(original))),
            "columns": {"text": "source", "summary": summary},
            "split": {"validation": 0},
        }

    reuters = {**read("reuters", "sum_news_reuters_headline", "target"), "labelled": 2000}
    science = read("science", "sum_science_scitldr", "targets")  # several to each paper
    legal = read("legal", "sum_legal_tldr", "target")
    rates = {"learning_rate": 3e-4, "tokens_per_batch": 2048}
    for name, target in {"legal": legal, **({} if several else {"science": science})}.items():
        papers = {"science": {**science, "labelled": 500}} if several else {}
        yield (
            name,
            {
                "application": application,
                "sources": {"reuters": reuters, **papers},
                "target": {name: {**target, "labelled": 500, "tested": 150}},
                "source_training": {"epochs": 1, **rates},
                "training": {"epochs": 3, **rates},
            },
        )


def dialogues(*, several: bool = False) -> Cells:
    """Customer service to the same of doctors and banks, and to a doctor with a patient.

    With `several`, from customer service in general and of banks to that of doctors.
    """
    service = folder("dlg_sgd")
    application = {
        "kind": "dialogue",
        "maximum_tokens": 128,
        "maximum_new_tokens": 32,
        "beams": 1,
    }

    def read(name: str, original: Path) -> dict[str, Any]:
        return {
            "path": str(without_dev("dialogues", name, original)),
            "group": "dialogue_id",
            "split": {"validation": 0},
        }

    targets = {
        "appointments": ("SYSTEM", service / "medical"),
        "banking": ("SYSTEM", service / "banking"),
        "doctors": ("Doctor", folder("dlg_medical_mts") / "response"),
    }
    own = {**application, "speaker": "SYSTEM"}
    general = {**read("general", service / "general"), "labelled": 1000, "application": own}
    banking = {**read("banking", service / "banking"), "labelled": 300, "application": own}
    rates = {"learning_rate": 1e-4, "tokens_per_batch": 1024, "dropout": 0}
    for name, (speaker, original) in targets.items():
        if several and name != "appointments":
            continue
        yield (
            name,
            {
                "application": {**application, "speaker": speaker},
                "sources": {"general": general, **({"banking": banking} if several else {})},
                "target": {name: {**read(name, original), "labelled": 300, "tested": 150}},
                "source_training": {"epochs": 1, **rates},
                "training": {"epochs": 3, **rates},
            },
        )


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


def folder(name: str) -> Path:
    """A set's folder."""
    return benchmarks() / name


def rows_of(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """The rows of JSON Lines files, gz or not."""
    for path in paths:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            yield from map(json.loads, file)


def by_task(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """ "books.t2" -> its rows, under books_t2: a domain's name has no dot."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["task"].replace(".", "_"), []).append(row)
    return found


def laid_out(name: str, file: str, rows: Iterable[dict[str, Any]]) -> Path:
    """Write rows to a file of a set's own folder under GRAFT_HOME."""
    path = store.home() / "benchmarks" / name / file
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not path.exists() or path.read_text(encoding="utf-8") != text:  # others may be reading it
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        aside.write_text(text, encoding="utf-8")
        aside.rename(path)
    return path


def without_dev(name: str, domain: str, path: Path) -> Path:
    """A domain's training and test rows: a score on dev after each epoch would choose nothing."""
    for part in ("train", "test"):
        found = laid_out(name, f"{domain}/{part}.jsonl", rows_of(path.glob(f"{part}.jsonl*")))
    return found.parent


def types(path: Path) -> list[str]:
    """The entity types that a set's test rows have."""
    tags = {tag for row in rows_of(sorted(path.glob("test.jsonl*"))) for tag in row["tags"]}
    return sorted({tag.partition("-")[2] for tag in tags} - {""})
