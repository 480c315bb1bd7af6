"""Precision, recall and F1 from counts: right (true positives), said (predicted), true (expected).

P = right / said    R = right / true    F1 = 2 right / (said + true)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole; 0 where the whole is 0, as in scikit-learn and seqeval."""
    part, whole = np.asarray(part, dtype=float), np.asarray(whole, dtype=float)
    shares: np.ndarray = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return shares


def f1(right: np.ndarray, said: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The harmonic mean of precision and recall."""
    return share(2 * right, said + true)


def by_label(
    labels: Sequence[str], right: np.ndarray, said: np.ndarray, true: np.ndarray
) -> dict[str, dict[str, float]]:
    """(C,) counts each -> label -> precision, recall, f1, and the number of true ones."""
    found = {
        "precision": share(right, said),
        "recall": share(right, true),
        "f1": f1(right, said, true),
        "count": true,
    }
    return {
        label: {name: float(values[i]) for name, values in found.items()}
        for i, label in enumerate(labels)
    }
