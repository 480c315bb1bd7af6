"""Drift as pictures: measures against their thresholds, embeddings, lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.pictures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tasks.learning.drift import Sample

SIDES = ("reference", "fresh")
BINS = 30


def draw_all(folder: Path, report: Mapping[str, Any], reference: Sample, fresh: Sample) -> None:
    """Write measures.png, embeddings.png and lengths.png."""
    figures = {
        "measures": measures(report["measures"]),
        "embeddings": embeddings(reference.features, fresh.features),
        "lengths": lengths(reference.length, fresh.length),
    }
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=120)


def measures(found: Sequence[Mapping[str, Any]]) -> Figure:
    """Each measure on a line of its own scale, and its threshold; orange: above it."""
    figure, axes = new_figure(6, 0.9 * len(found), nrows=len(found), squeeze=False)
    for axis, one in zip(axes[:, 0], found, strict=True):
        colour = "tab:orange" if one["drifted"] else "tab:blue"
        axis.plot([one["value"]], [0], "o", color=colour)
        axis.axvline(one["threshold"], color="black", linestyle="--", linewidth=1)
        axis.annotate(
            f"{one['value']:.3g}",
            (one["value"], 0),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
        )
        axis.set(yticks=[0], ylim=(-1, 2))
        axis.set_yticklabels([one["name"].replace("_", " ")])
        axis.margins(x=0.2)
    axes[-1, 0].set_xlabel("dashed: the threshold")
    return figure


def embeddings(reference: np.ndarray, fresh: np.ndarray) -> Figure:
    """(N, H) and (N', H) on the two first principal components of the reference."""
    from sklearn.decomposition import PCA

    figure, axis = new_figure(5, 5)
    places = PCA(2, random_state=0).fit(reference)
    for name, features in zip(SIDES, (reference, fresh), strict=True):
        axis.scatter(*places.transform(features).T, s=6, alpha=0.5, label=name)
    share = places.explained_variance_ratio_.sum()
    axis.set(xticks=[], yticks=[], xlabel=f"{share:.0%} of the reference's variance")
    axis.legend(fontsize="small")
    return figure


def lengths(reference: np.ndarray, fresh: np.ndarray) -> Figure:
    """Shares of rows by words, on either side."""
    figure, axis = new_figure(6, 3)
    longest = max(reference.max(), fresh.max(), 1)
    bins = np.linspace(0, longest, min(BINS, int(longest)) + 1)
    for name, counts in zip(SIDES, (reference, fresh), strict=True):
        weights = np.full(len(counts), 1 / len(counts))
        axis.hist(counts, bins, weights=weights, alpha=0.5, label=name)
    axis.set(xlabel="words", ylabel="share of rows")
    axis.legend(fontsize="small")
    return figure
