"""Graft's training loop against `transformers.Trainer` as the run_glue example configures it.

    python -m benchmarks.throughput             samples a second
    python -m benchmarks.throughput --accuracy  accuracy and macro-F1 on the test rows

All systems start from the same backbone and train on the very same rows, taking turns in one
process: Trainer, Graft, Trainer, Graft, … README.md beside this file says what is held equal.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
import transformers as hf

from tasks.config import SourceTraining
from tasks.learning import loop
from tasks.learning.applications import TextClassification
from tasks.learning.backbone import load_tokenizer
from tasks.learning.batches import Stream, Together
from tasks.learning.contracts import Prediction, Row
from tasks.learning.learner import new_learner
from tasks.learning.paradigms import FineTuning
from tasks.learning.prediction import predict

PIPELINES = Path(__file__).parents[1] / "pipelines.yaml"
PIPELINE = "reviews"
SHIPPED = SourceTraining(epochs=1, freeze=3, learning_rate=1.4e-4, tokens_per_batch=1024, dropout=0)
"""The pipeline's `source_training`, for machines where the rows come as files."""
BATCH, LENGTH, LEARNING_RATE = 32, 128, 5e-5
"""The Trainer's, as in run_glue: every text is padded to LENGTH."""
QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""Student's t, two-sided 95%, for 1 to 20 degrees of freedom (scipy may not be there)."""


@dataclass(frozen=True)
class Material:
    """What every system is given."""

    train: list[Row]
    test: list[Row]
    backbone: Path
    application: TextClassification
    training: SourceTraining


@dataclass(frozen=True)
class Turn:
    """One training, from the backbone's own weights to the end of `rows`."""

    rows: list[Row]
    epochs: int
    seed: int
    test: list[Row]


@dataclass(frozen=True)
class Outcome:
    """What a turn took and what it learned."""

    seed: int
    steps: int
    seconds: float
    speed: float  # samples a second
    precision: str
    scores: dict[str, float]  # empty without test rows


System = Callable[[Material, Turn], Outcome]


def from_pipeline() -> Material:
    """The sources' rows as users have them: fetched, ingested, validated and split."""
    from tasks import ingest, source, split, store, validate
    from tasks.load import load
    from tasks.stage import Stage
    from tasks.training import read_rows

    def produce(stage: Stage) -> store.Output:
        print(f"{stage.name} {stage.subject} …", flush=True)
        return store.produce(stage.name, stage.key, stage.compute)

    pipeline = load(PIPELINES, PIPELINE)
    application, training = pipeline.application, pipeline.source_training
    assert training is not None
    valid = {}
    for name, domain in pipeline.domains.items():
        rows = produce(ingest.stage(name, domain, application))
        valid[name] = produce(validate.stage(name, rows, application, pipeline.validation))
    parts = produce(split.stage(pipeline, valid))
    train, test = (
        [row for name in pipeline.sources for row in read_rows(parts.file(f"{name}/{kind}"))]
        for kind in ("train.parquet", "test.parquet")
    )
    return Material(train, test, source.locate(pipeline.backbone).backbone, application, training)


def from_files(train: Path, test: Path, backbone: Path) -> Material:
    """Rows as lines of {"text": "great", "label": "positive"}."""
    rows = []
    for path in (train, test):
        with path.open(encoding="utf-8") as lines:
            rows.append([json.loads(line) for line in lines])
    labels = tuple(sorted({row["label"] for row in rows[0]}))
    application = TextClassification(kind="text_classification", labels=labels)
    return Material(rows[0], rows[1], backbone, application, SHIPPED)


def export(material: Material, folder: Path) -> None:
    """Write what `from_files` reads: train.jsonl, test.jsonl and backbone/."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", material.train), ("test", material.test)):
        lines = [json.dumps({"text": row["text"], "label": row["label"]}) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    shutil.copytree(material.backbone, folder / "backbone", dirs_exist_ok=True)


def with_trainer(material: Material, turn: Turn) -> Outcome:
    """The library's Trainer with run_glue's arguments; nothing is saved, logged or evaluated."""
    labels, tokenizer = material.application.labels, load_tokenizer(material.backbone)

    def dataset(rows: Sequence[Row]) -> Any:
        texts = [row["text"] for row in rows]
        found = tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True)
        columns = {**found, "label": [labels.index(row["label"]) for row in rows]}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    with tempfile.TemporaryDirectory() as folder:
        arguments = hf.TrainingArguments(
            output_dir=folder,
            num_train_epochs=turn.epochs,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="linear",
            seed=turn.seed,
            eval_strategy="no",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        hf.set_seed(turn.seed)
        model = hf.AutoModelForSequenceClassification.from_pretrained(
            material.backbone, num_labels=len(labels), dtype=torch.float32
        )
        trainer = hf.Trainer(
            model,
            arguments,
            hf.default_data_collator,
            dataset(turn.rows),
            processing_class=tokenizer,
        )
        trainer.remove_callback(hf.PrinterCallback)
        started = clock()
        trainer.train()
        seconds = clock() - started
        logits: Any = trainer.predict(dataset(turn.test)).predictions if turn.test else []
    precision = trainer.accelerator.mixed_precision
    assert precision == "no", f"the Trainer is to compute in float32, not {precision}"
    answers: list[Prediction] = [{"label": labels[int(row.argmax())]} for row in logits]
    return outcome(material, turn, trainer.state.global_step, seconds, "float32", answers)


def with_graft(material: Material, turn: Turn, *, freeze: int) -> Outcome:
    """Graft's loop as the source stage calls it; planning the batches is timed too."""
    training, application = material.training, material.application
    torch.manual_seed(turn.seed)
    learner = new_learner(material.backbone, {PIPELINE: application})
    learner.backbone.set_dropout(training.dropout)
    examples = application.encode(turn.rows, learner.tokenizer)
    pad_id, budget = learner.tokenizer.pad_token_id, training.tokens_per_batch
    settings = training.model_dump(
        include={*loop.Schedule.__dataclass_fields__}  # all but the steps, and no early stopping
    )
    with tempfile.TemporaryDirectory() as folder:
        started = clock()
        stream = Stream(PIPELINE, examples, pad_id=pad_id, budget=budget, seed=turn.seed)
        schedule = loop.Schedule(steps=stream.steps(turn.epochs), **settings)
        paradigm = FineTuning(kind="fine_tuning", freeze=freeze)
        summary = loop.train(learner, paradigm, Together(target=stream), schedule, Path(folder))
        seconds = clock() - started
    precision = str(loop.precision(training.precision)).removeprefix("torch.")
    steps = int(summary["steps"])
    answers = predict(learner, PIPELINE, turn.test)
    return outcome(material, turn, steps, seconds, precision, answers)


def clock() -> float:
    """Seconds, once the device has done all it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def outcome(
    material: Material,
    turn: Turn,
    steps: int,
    seconds: float,
    precision: str,
    answers: list[Prediction],
) -> Outcome:
    """Speed and scores, counted the same way for every system."""
    scores: dict[str, float] = {}
    if turn.test:
        totals = material.application.statistics(answers, turn.test).sum(0)
        scores = {name: float(v) for name, v in material.application.scores(totals).items()}
    speed = len(turn.rows) * turn.epochs / seconds
    return Outcome(turn.seed, steps, seconds, speed, precision, scores)


def compare(
    systems: Mapping[str, System], material: Material, options: argparse.Namespace
) -> dict[str, list[Outcome]]:
    """In each round every system has one turn on the same rows; a first round is not counted."""
    seeds = options.seeds if options.accuracy else islice(cycle(options.seeds), options.repeats)
    test = material.test if options.accuracy else []
    turns = [Turn(material.train[: 2 * BATCH], 1, 0, [])]
    for number, seed in enumerate(seeds):
        rows = random.Random(f"{seed} {number}").sample(material.train, options.rows)
        turns.append(Turn(rows, options.epochs, seed, test))
    found: dict[str, list[Outcome]] = {name: [] for name in systems}
    for number, turn in enumerate(turns):
        for name, system in systems.items():
            gc.collect()
            done = system(material, turn)
            print(
                f"round {number or '0 (warm-up)'}, seed {turn.seed}, {name}: {done.steps} steps, "
                f"{done.seconds:.1f} s, {done.speed:.1f} samples/s",
                *(f"{metric} {100 * value:.2f}" for metric, value in done.scores.items()),
                sep=", ",
                flush=True,
            )
            if number:
                found[name].append(done)
    return found


def speed_table(found: Mapping[str, list[Outcome]]) -> str:
    """Medians over the rounds; ratios are taken within each round."""
    lines = [
        "| system | precision | steps | samples/s | min to max | ratio to Trainer | min to max |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, own in found.items():
        speeds = [done.speed for done in own]
        ratios = [a.speed / b.speed for a, b in zip(own, found["Trainer"], strict=True)]
        lines.append(
            f"| {name} | {own[0].precision} | {median(done.steps for done in own):g} "
            f"| {median(speeds):.1f} | {min(speeds):.1f} to {max(speeds):.1f} "
            f"| {median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |"
        )
    return "\n".join(lines)


def score_table(found: Mapping[str, list[Outcome]], metric: str) -> str:
    """Percent, a column a seed; the mean difference from the Trainer with its 95% t-interval."""
    base = [100 * done.scores[metric] for done in found["Trainer"]]
    seeds = " | ".join(str(done.seed) for done in found["Trainer"])
    lines = [
        f"| {metric}, seed | {seeds} | mean | difference |",
        "|---" * (len(base) + 3) + "|",
    ]
    for name, outcomes in found.items():
        own = [100 * done.scores[metric] for done in outcomes]
        gain = with_interval([a - b for a, b in zip(own, base, strict=True)])
        cells = [*(f"{value:.2f}" for value in own), f"{mean(own):.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} | {gain if name != 'Trainer' else ''} |")
    return "\n".join(lines)


def with_interval(values: Sequence[float]) -> str:
    """mean [mean - h, mean + h], h = t · s / √n"""
    n, centre = len(values), mean(values)
    if n == 1:
        return f"{centre:+.2f}"
    half = QUANTILES[min(n - 1, len(QUANTILES)) - 1] * stdev(values) / n**0.5
    return f"{centre:+.2f} [{centre - half:+.2f}, {centre + half:+.2f}]"


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load at the start": round(os.getloadavg()[0], 1),
        "bfloat16": "native" if loop.native_bfloat16() else "not native",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "accelerate")},
    }


def parse() -> argparse.Namespace:
    """The options, with the defaults of the chosen part."""
    parser = argparse.ArgumentParser(description="Graft's training loop against the Trainer.")
    parser.add_argument("--accuracy", action="store_true", help="scores on the test rows as well")
    parser.add_argument("--rows", type=int, help="rows of a turn (512; with --accuracy 2000)")
    parser.add_argument("--repeats", type=int, default=7, help="rounds; with --accuracy the seeds'")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[13, 14, 15, 16, 17])
    parser.add_argument("--train", type=Path, help="jsonl; goes with --test and --backbone")
    parser.add_argument("--test", type=Path, help="jsonl")
    parser.add_argument("--backbone", type=Path, help="a transformers folder")
    parser.add_argument("--export", type=Path, help="write those three to a folder, and stop")
    parser.add_argument("--json", type=Path, help="write the raw figures to a file")
    options = parser.parse_args()
    if len({bool(options.train), bool(options.test), bool(options.backbone)}) > 1:
        parser.error("--train, --test and --backbone go together")
    options.rows = options.rows or (2000 if options.accuracy else 512)
    return options


def main() -> None:
    """Measure, and print Markdown."""
    options, surroundings = parse(), machine()
    files = (options.train, options.test, options.backbone)
    material = from_files(*files) if options.train else from_pipeline()
    if options.export:
        return export(material, options.export)
    if options.rows > len(material.train):
        raise SystemExit(f"--rows is {options.rows}, but there are {len(material.train)} rows")
    freeze = material.training.freeze
    systems: dict[str, System] = {
        "Trainer": with_trainer,
        "Graft": partial(with_graft, freeze=0),
        f"Graft, freeze {freeze} (as shipped)": partial(with_graft, freeze=freeze),
    }
    found = compare(systems, material, options)
    tested = f", {len(material.test)} test rows" if options.accuracy else ""
    print("\n" + ", ".join(f"{name}: {value}" for name, value in surroundings.items()) + "  ")
    print(f"{options.rows} training rows, epochs: {options.epochs}{tested}\n")
    print(speed_table(found))
    for metric in ("accuracy", "macro_f1") if options.accuracy else ():
        print("\n" + score_table(found, metric))
    if options.json:
        raw = {name: [asdict(done) for done in own] for name, own in found.items()}
        size = {"rows": options.rows, "epochs": options.epochs, "test": len(material.test)}
        text = json.dumps({"machine": surroundings, **size, "systems": raw}, indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
