"""What people would rather look at: confusion, learning curves, scores with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.config import Pipeline
from tasks.learning.contracts import Prediction, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tasks.shift import Shift

Curves = Mapping[str, Sequence[Mapping[str, float]]]


def draw_all(
    folder: Path,
    pipeline: Pipeline,
    report: Mapping[str, Any],
    curves: Curves,
    predictions: Mapping[str, Sequence[Prediction]],
    rows: Sequence[Row],
) -> None:
    """Write scores.png, curves.png, slices.png and, of labels, labels.png and confusion.png."""
    folder.mkdir(exist_ok=True)
    application = pipeline.application
    figures = {
        "scores": scores(report),
        "curves": learning_curves(curves, pipeline.metric),
        "slices": slices(report),
    }
    if application.labels:
        figures["labels"] = by_label(report)
    if report["affinities"]:
        figures["affinities"] = affinities(report["affinities"])
    counts = application.confusion(application.statistics(predictions["transfer"], rows).sum(0))
    if counts is not None:
        figures["confusion"] = confusion(counts.tolist(), application.labels)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=120)


def new_figure(width: float, height: float, **grid: Any) -> tuple[Figure, Any]:
    """A figure that belongs to no window and no global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**grid)


def scores(report: Mapping[str, Any]) -> Figure:
    """Each system's score as a point with its interval."""
    systems, metric = report["systems"], report["metric"]
    figure, axes = new_figure(6, 0.6 + 0.5 * len(systems))
    for position, (name, found) in enumerate(reversed(systems.items())):
        value = found[metric]
        spread = around([value])
        colour = "tab:orange" if name == "transfer" else "tab:blue"
        axes.errorbar(value["value"], position, xerr=spread, fmt="o", capsize=4, color=colour)
        axes.annotate(
            f"{value['value']:.3f}",
            (value["value"], position),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
        )
    axes.set_yticks(range(len(systems)), list(reversed(systems)))
    axes.set_ylim(-0.5, len(systems) - 0.2)
    axes.set_xlabel(f"{metric}, {report['confidence']:.0%} interval, {report['rows']} test rows")
    axes.grid(axis="x", alpha=0.3)
    return figure


def around(found: Sequence[Mapping[str, float]]) -> list[list[float]]:
    """How far each interval reaches below and above its value; not at all on a side where it does
    not hold the value, as that of few rows may not."""
    return [
        [max(0.0, one["value"] - one["low"]) for one in found],
        [max(0.0, one["high"] - one["value"]) for one in found],
    ]


def slices(report: Mapping[str, Any]) -> Figure:
    """Each system's score, with its interval, on the thirds of the rows by each measure."""
    found = report["slices"]
    figure, axes = new_figure(4.5 * len(found), 3.5, ncols=len(found), squeeze=False)
    for axis, (measure, parts) in zip(axes[0], found.items(), strict=True):
        for system in report["systems"]:
            own = [part["systems"][system] for part in parts]
            values = [one["value"] for one in own]
            axis.errorbar(
                range(len(own)), values, yerr=around(own), fmt="o-", capsize=4, label=system
            )
        names = [f"{one['name']}\n{one['rows']} rows" for one in parts]
        axis.set_xticks(range(len(parts)), names)
        axis.set(xlabel=measure, ylabel=report["sliced"])
        axis.grid(axis="y", alpha=0.3)
    axes[0][0].legend(fontsize="small")
    return figure


def learning_curves(curves: Curves, metric: str) -> Figure:
    """Training loss (points, and their running mean), and the validation score if there was one."""
    validated = f"validation_{metric}"
    figure, axes = new_figure(4 * max(1, len(curves)), 3, ncols=max(1, len(curves)), squeeze=False)
    for axis, (name, lines) in zip(axes[0], curves.items(), strict=False):
        steps, losses = [x["step"] for x in lines], [x["loss"] for x in lines]
        means = [sum(losses[max(0, i - 4) : i + 1]) / min(5, i + 1) for i in range(len(losses))]
        axis.plot(steps, losses, ".", color="tab:blue", alpha=0.3)
        axis.plot(steps, means, color="tab:blue")
        axis.set(title=name, xlabel="step", ylabel="training loss", ylim=(0, None))
        points = [(x["step"], x[validated]) for x in lines if validated in x]
        if points:
            twin = axis.twinx()
            twin.plot(*zip(*points, strict=True), "o-", color="tab:orange")
            twin.set(ylabel=validated, ylim=(0, 1))
    return figure


def by_label(report: Mapping[str, Any]) -> Figure:
    """Each label's F1, one bar a system, and how many true ones the test set has."""
    systems = report["labels"]
    names = list(next(iter(systems.values())))
    figure, axes = new_figure(6, 1.2 + 0.2 * len(names) * len(systems))
    height = 0.8 / len(systems)
    for i, (system, found) in enumerate(systems.items()):
        places = [position + i * height for position in range(len(names))]
        axes.barh(places, [found[name]["f1"] for name in names], height, label=system)
    counts = [f"{name} ({systems['transfer'][name]['count']:.0f})" for name in names]
    axes.set_yticks([position + 0.4 - height / 2 for position in range(len(names))], counts)
    axes.invert_yaxis()
    axes.set(xlabel="F1", xlim=(0, 1))
    axes.legend(fontsize="small")
    return figure


def domains(shifts: Mapping[str, Shift]) -> Figure:
    """Both domains' features on their two first principal components, before and after."""
    from sklearn.decomposition import PCA

    figure, axes = new_figure(4 * len(shifts), 4, ncols=len(shifts), squeeze=False)
    for axis, (moment, found) in zip(axes[0], shifts.items(), strict=True):
        places = PCA(2).fit(np.concatenate([found.source, found.target]))
        for name, features in (("source", found.source), ("target", found.target)):
            axis.scatter(*places.transform(features).T, s=6, alpha=0.5, label=name)
        axis.set(title=f"{moment}: proxy A-distance {found.distance:.2f}", xticks=[], yticks=[])
        axis.legend(fontsize="small")
    return figure


def affinities(found: Mapping[str, float]) -> Figure:
    """Rows: the task that took a small step. Columns: the task whose loss it lowered (blue)."""
    pairs = {tuple(name.split("/")[1:]): value for name, value in found.items()}
    tasks = sorted({task for pair in pairs for task in pair})
    figure, axes = new_figure(3 + 0.7 * len(tasks), 1.5 + 0.7 * len(tasks))
    most = max(abs(value) for value in pairs.values()) or 1.0
    cells = [[pairs.get((a, b), float("nan")) for b in tasks] for a in tasks]
    axes.imshow(cells, cmap="RdBu", vmin=-most, vmax=most)
    for (helper, helped), value in pairs.items():
        place = (tasks.index(helped), tasks.index(helper))
        axes.annotate(f"{value:+.1%}", place, ha="center", va="center")
    axes.set_xticks(range(len(tasks)), tasks, rotation=45, ha="right")
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set(xlabel="whose loss fell", ylabel="after a step for")
    return figure


def confusion(counts: Sequence[Sequence[float]], labels: Sequence[str]) -> Figure:
    """Rows: the true label. Columns: the transfer's prediction."""
    side = 2.5 + 0.5 * len(labels)
    figure, axes = new_figure(side, side)
    axes.imshow(counts, cmap="Blues")
    highest = max(max(row) for row in counts)
    for i, row in enumerate(counts):
        for j, value in enumerate(row):
            colour = "white" if value > highest / 2 else "black"
            axes.text(j, i, f"{value:.0f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted by the transfer", ylabel="true")
    return figure
