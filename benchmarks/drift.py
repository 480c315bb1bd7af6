"""Whether `graft monitor` raises an alarm where it should, and how often where it should not.

    python -m benchmarks.drift
    python -m benchmarks.drift --reviews    # then: rows that come in groups

Trains a champion on movie snippets, as a user does, and shows it text of other domains; then, many
times, movie snippets that neither it nor the monitor has seen. All four domains are of the package
vaderSentiment (Hutto and Gilbert 2014), as in pipelines.yaml.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from tasks import drift, provenance, watch
from tasks.champion import load_champion
from tasks.errors import GraftError
from tasks.fetch import fetch
from tasks.learning.applications.words import words
from tasks.learning.drift import Measure, Sample, compare
from tasks.load import load
from tasks.split import text_key

PIPELINES = Path(__file__).parents[1] / "pipelines.yaml"
MODEL = "snippets"
FILES = {
    "movies": "movieReviewSnippets_GroundTruth.txt",
    "products": "amazonReviewSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
    "editorials": "nytEditorialSnippets_GroundTruth.txt",
}
OTHERS = ("products", "tweets", "editorials")


@dataclass(frozen=True)
class Sizes:
    """Rows of each part of the movie snippets."""

    source: int = 1500
    train: int = 1500
    labelled: int = 300
    test: int = 2000
    """The monitor's reference."""
    held: int | None = None
    """Rows that draws are of; None: all that are left."""
    fresh: int = 200
    """Of a draw, and of each other domain."""
    draws: int = 200


@dataclass(frozen=True)
class Found:
    """What came of it."""

    domains: Mapping[str, dict[str, Any]]
    """Domain -> the monitor's report."""
    draws: Sequence[Sequence[Measure]]
    held_out: int
    """Rows that the draws are of."""

    @property
    def alarms(self) -> int:
        """Draws of which some measure is above its threshold."""
        return sum(any(one.drifted for one in draw) for draw in self.draws)


def rows_of(domain: str) -> list[dict[str, str]]:
    """Texts and labels of a domain, in an order by chance; each text once, those between positive
    and negative left out, as the pipelines do."""
    found: dict[str, dict[str, str]] = {}
    for line in source(domain).read_text(encoding="utf-8").splitlines():
        _, score, text = line.split("\t")
        if abs(float(score)) >= 0.3:
            label = "positive" if float(score) > 0 else "negative"
            row = {"text": text.strip(), "label": label}
            found.setdefault(text_key(row, ("text",)), row)
    rows = list(found.values())
    random.Random(13).shuffle(rows)
    return rows


def write_project(folder: Path, sizes: Sizes) -> list[dict[str, str]]:
    """Data, pipelines.yaml and files of the other domains; gives the held-out rows."""
    movies = iter(rows_of("movies"))

    def some(count: int) -> list[dict[str, str]]:
        return [row for _, row in zip(range(count), movies, strict=False)]

    write(folder / "source.jsonl", some(sizes.source))
    write(folder / "movies" / "train.jsonl", some(sizes.train))
    write(folder / "movies" / "test.jsonl", some(sizes.test))
    for domain in OTHERS:
        write(folder / f"{domain}.jsonl", rows_of(domain)[: sizes.fresh])
    shipped = load(PIPELINES, "reviews")
    pipeline = {
        "application": {"kind": "text_classification", "labels": ["negative", "positive"]},
        "backbone": {"path": shipped.backbone.path, "revision": shipped.backbone.revision},
        "sources": {"snippets": {"path": "source.jsonl", "split": {"test": 0.1}}},
        "target": {
            "movies": {"path": "movies", "labelled": sizes.labelled, "split": {"validation": 0}}
        },
        "source_training": {"epochs": 1, "freeze": 3, "learning_rate": 1.4e-4, "dropout": 0},
        "paradigm": {"kind": "fine_tuning", "freeze": 2},
        "training": {"epochs": 2, "learning_rate": 5.0e-5, "dropout": 0},
        "evaluation": {"baselines": ["majority"]},
        "promotion": {"model": MODEL},
    }
    YAML().dump({"pipelines": {MODEL: pipeline}}, folder / "pipelines.yaml")
    return list(movies)[: sizes.held]


def write(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def graft(folder: Path, *arguments: str) -> str:
    """What the command prints."""
    command = [str(Path(sys.executable).parent / "graft"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GraftError(done.stderr.strip())
    return done.stdout


def held_out_draws(
    held: Sample, reference: Sample, sizes: Sizes, seed: int
) -> Iterator[list[Measure]]:
    """Compare draws of held-out rows, each without repetition, with the reference."""
    generator = np.random.default_rng(seed)
    for _ in range(sizes.draws):
        chosen = generator.choice(len(held.length), sizes.fresh, replace=False)
        yield compare(reference, held.take(chosen), 0.05, seed)


def measured(folder: Path, sizes: Sizes) -> Found:
    """The champion made, and shown everything."""
    held = write_project(folder, sizes)
    graft(folder, "run", MODEL)
    graft(folder, "promote", MODEL)
    reports = {
        name: json.loads(graft(folder, "monitor", MODEL, f"{name}.jsonl", "--json"))
        for name in OTHERS
    }
    found = watch.watched(MODEL, "")
    model = load_champion(MODEL, found.version, "float32").model
    known = {word for row in found.trained for word in words(drift.written(row))}
    seed = found.pipeline.seed
    reference = drift.sample(model, watch.drawn(found.reference, drift.ROWS, seed), known)
    texts = [{"text": row["text"]} for row in held]
    draws = list(held_out_draws(drift.sample(model, texts, known), reference, sizes, seed))
    return Found(reports, draws, len(held))


def by_review(draws: int) -> Iterator[str]:
    """Products are sentences of reviews. How often half of the reviews raise an alarm against
    others, each half drawn anew: by one sentence a review, or by all of the reference's.

    Asks the champion that `measured` left in GRAFT_HOME.
    """
    found = watch.watched(MODEL, "")
    model = load_champion(MODEL, found.version, "float32").model
    rows, reviews = sentences_of("products")
    known = {word for row in found.trained for word in words(row["text"])}
    seen = drift.sample(model, rows, known)
    everything = np.arange(len(rows))
    chance = np.random.default_rng(13)
    alarms = {"one sentence a review": 0, "every sentence of the reference": 0}
    for _ in range(draws):
        shuffled = chance.permutation(everything)
        first = {reviews[i]: i for i in shuffled}  # a sentence of each review, drawn
        names = chance.permutation(sorted(first))
        half = len(names) // 2
        fresh = seen.take(np.array([first[name] for name in names[half:]]))
        one = np.array([first[name] for name in names[:half]])
        every = everything[np.isin(reviews, names[:half])]
        for name, reference in zip(alarms, (one, every), strict=True):
            measures = compare(seen.take(reference), fresh, 0.05, 13)
            alarms[name] += any(measure.drifted for measure in measures)
    yield f"{len(rows)} sentences of {len(set(reviews))} product reviews, {draws} draws\n"
    yield "| reference | false alarms | 95% interval |\n|---|---|---|"
    for name, count in alarms.items():
        low, high = interval(count, draws)
        yield f"| {name} | {count / draws:.1%} | {low:.1%} to {high:.1%} |"


def sentences_of(domain: str) -> tuple[list[dict[str, str]], np.ndarray]:
    """All texts of a domain, and (N,) the document each is of: 12_3 is the third of 12."""
    lines = [line.split("\t") for line in source(domain).read_text("utf-8").splitlines()]
    documents = np.array([name.partition("_")[0] for name, _, _ in lines])
    return [{"text": text.strip()} for _, _, text in lines], documents


def source(domain: str) -> Path:
    config = load(PIPELINES, "reviews").domains["movies"]
    return fetch(str(Path(config.path).parent / FILES[domain]), config.revision, "datasets")


def interval(count: int, of: int) -> tuple[float, float]:
    """95% of a rate (Clopper and Pearson 1934)."""
    from scipy.stats import binomtest

    found = binomtest(count, of).proportion_ci(0.95, "exact")
    return float(found.low), float(found.high)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift")
    parser.add_argument("--folder", type=Path, default=Path("drift"), help="for data and models")
    parser.add_argument("--draws", type=int, default=Sizes.draws)
    parser.add_argument("--fresh", type=int, default=Sizes.fresh, help="rows of a draw")
    parser.add_argument("--test", type=int, default=Sizes.test, help="rows of the reference")
    parser.add_argument("--reviews", action="store_true", help="rows in groups; after the others")
    options = parser.parse_args()
    if options.reviews:
        print("\n".join(by_review(options.draws)))
        return
    sizes = Sizes(test=options.test, fresh=options.fresh, draws=options.draws)
    started = time.monotonic()
    found = measured(options.folder, sizes)
    seconds = time.monotonic() - started
    print(f"{provenance.hardware()}, {seconds:.0f} s in all\n")
    print("\n".join(lines(found, sizes)))


def lines(found: Found, sizes: Sizes) -> Iterator[str]:
    """Tables, in Markdown."""
    names = [measure.name for measure in found.draws[0]]
    yield f"| {sizes.fresh} rows of | alarm | {' | '.join(names)} |"
    yield f"|---|---|{'---|' * len(names)}"
    for domain, report in found.domains.items():
        cells = [f"{one['value']:.3g} ({one['threshold']:.3g})" for one in report["measures"]]
        yield f"| {domain} | {'yes' if report['drifted'] else 'no'} | {' | '.join(cells)} |"
    alone = [sum(draw[i].drifted for draw in found.draws) for i in range(len(names))]
    cells = [str(count) for count in alone]
    of = f"{found.alarms} of {len(found.draws)}"
    yield f"| held-out movies, draws with an alarm | {of} | {' | '.join(cells)} |"
    low, high = interval(found.alarms, len(found.draws))
    rate = found.alarms / len(found.draws)
    yield ""
    yield f"False alarms: {rate:.1%}, 95% interval {low:.1%} to {high:.1%}; stated: 5%."
    yield f"Draws are of {found.held_out} held-out rows."


if __name__ == "__main__":
    main()
