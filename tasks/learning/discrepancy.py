"""Statistics of how far marked rows lie from the others, for many ways to mark them at once.

Each function takes what is known of N rows, computes what does not depend on the marks, and gives
a statistic: (N, R) marks, 1.0 = fresh -> (R,) values, the higher the further apart.

N rows   m of them fresh   R ways to mark them   H width   C labels
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]
"""(N, R) marks -> (R,) how far fresh rows lie from the others."""
FOLDS = 5
NEIGHBOURS = 1000
"""Rows whose distances the kernel's width is read from."""


def mmd(features: np.ndarray) -> Statistic:
    """MMD² = mean k(f, f') + mean k(r, r') − 2 mean k(f, r), no row with itself.

    Unbiased; k(x, y) = exp(−|x − y|² / 2σ²), σ² the median of |x − y|². Gretton et al. 2012, eq. 3.
    """
    rows = features.astype(np.float32) - features.mean(0, dtype=np.float32)
    squares = (rows**2).sum(1)
    distances = np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0)
    step = -(-len(rows) // NEIGHBOURS)
    width = max(float(np.median(distances[::step, ::step])), 1e-12)
    kernel = np.exp(distances / (-2 * width))
    np.fill_diagonal(kernel, 0)
    of_row = kernel.sum(1, dtype=np.float64)  # each row's kernel with all others
    total = of_row.sum()

    def found(marks: np.ndarray) -> np.ndarray:
        m = marks.sum(0, dtype=np.float64)
        n = len(marks) - m
        inside = (marks * (kernel @ marks)).sum(0, dtype=np.float64)  # fresh with fresh
        across = of_row @ marks - inside
        rest = total - inside - 2 * across
        gaps: np.ndarray = inside / (m * (m - 1)) + rest / (n * (n - 1)) - 2 * across / (m * n)
        return gaps

    return found


def classifier_auc(features: np.ndarray, seed: int) -> Statistic:
    """How often a classifier finds the fresh one of a pair: 0.5 by chance, 1 always.

    w = (XᵀX + λI)⁻¹ Xᵀy on four fifths of the rows, AUC of Xw on the last, mean over the fifths by
    their pairs. Lopez-Paz and Oquab 2017, with least squares (Fisher's discriminant, shrunk), so
    that all permutations are fitted at once: X is the same in each.
    """
    spread = features.std(0)
    rows = ((features - features.mean(0)) / np.where(spread > 0, spread, 1)).astype(np.float32)
    # In an order drawn by chance, so that equal scores are ranked by chance, too.
    order = np.random.default_rng(seed).permutation(len(rows))
    folds = [(order[i::FOLDS], np.delete(order, np.s_[i::FOLDS])) for i in range(FOLDS)]

    def found(marks: np.ndarray) -> np.ndarray:
        won, pairs = np.zeros(marks.shape[1]), np.zeros(marks.shape[1])
        for test, train in folds:
            learned, said = rows[train], marks[train]
            ridge = learned.T @ learned + len(train) * np.eye(rows.shape[1], dtype=np.float32)
            weights = np.linalg.solve(ridge, learned.T @ (said - said.mean(0)))  # (H, R)
            more, of = pairs_won(rows[test] @ weights, marks[test])
            won, pairs = won + more, pairs + of
        return won / np.maximum(pairs, 1)

    return found


def pairs_won(scores: np.ndarray, marks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R,) pairs of a fresh row and another in which the fresh one scores higher, and all pairs:
    Mann and Whitney's U, from ranks."""
    ranks = np.argsort(np.argsort(scores, axis=0), axis=0) + 1.0
    m = marks.sum(0, dtype=np.float64)
    return (ranks * marks).sum(0) - m * (m + 1) / 2, m * (len(marks) - m)


def largest_gap(values: np.ndarray) -> Statistic:
    """max_x |F_fresh(x) − F_reference(x)|, F the share of rows up to x (Kolmogorov and Smirnov)."""
    order = np.argsort(values, kind="stable")
    last = np.flatnonzero(np.append(np.diff(values[order]) > 0, True))  # of equal values

    def found(marks: np.ndarray) -> np.ndarray:
        fresh = np.cumsum(marks[order], axis=0, dtype=np.float64)[last]
        m = marks.sum(0, dtype=np.float64)
        rest = (last + 1)[:, None] - fresh
        gaps: np.ndarray = np.abs(fresh / m - rest / (len(marks) - m)).max(0)
        return gaps

    return found


def more_of(counted: np.ndarray, out_of: np.ndarray) -> Statistic:
    """Share of what is counted among fresh rows, less that among the others: (N,) counts, and what
    they are out of. Less than in the reference is no drift."""

    def found(marks: np.ndarray) -> np.ndarray:
        def share(weights: np.ndarray) -> np.ndarray:
            of: np.ndarray = (counted @ weights) / np.maximum(out_of @ weights, 1)
            return of

        marks = marks.astype(np.float64)
        more: np.ndarray = share(marks) - share(1 - marks)
        return more

    return found


def variation(labels: np.ndarray) -> Statistic:
    """½ Σ_c |share of fresh rows with label c − share of the others with it| of (N, C) labels: the
    total variation where each row has one. Of predictions, as Lipton et al. 2018 look for a shift
    of labels."""
    counts = labels.sum(0)[:, None]

    def found(marks: np.ndarray) -> np.ndarray:
        marks = marks.astype(np.float64)
        m = marks.sum(0)
        fresh = labels.T @ marks  # (C, R)
        gaps: np.ndarray = np.abs(fresh / m - (counts - fresh) / (len(marks) - m)).sum(0) / 2
        return gaps

    return found
