"""Sets whose texts are to be written: translations, summaries, responses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.sets.layout import Cells, folder, without_dev


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
