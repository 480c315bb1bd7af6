"""Distances between the features of two domains, and what makes them smaller.

B rows of the source, B' of the target, H width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.learning.information import mutual_information

BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Widths of the Gaussians, in units of the mean squared distance."""


class Reversal(torch.autograd.Function):
    """R_λ(f) = f; ∂R_λ/∂f = -λ. Ganin et al. 2016, eq. 16 and 17."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, strength: float) -> Tensor:
        """The features as they are."""
        ctx.strength = strength
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient, turned round and scaled."""
        return -ctx.strength * gradients[0], None


class Discriminator(nn.Module):
    """Tells source from target by a text's features, which it sees through the reversal."""

    def __init__(self, width: int, hidden: int) -> None:
        """(B, `width`) -> (B,) log odds of the target, one hidden layer."""
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.strength = 0.0

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """(B, H), (B', H) -> () the mean of -log p(right domain), each domain half of it."""
        features = Reversal.apply(torch.cat([source, target]), self.strength)
        odds = self.layers(features).squeeze(-1).float()
        of_source, of_target = odds.split([len(source), len(target)])
        return (functional.softplus(of_source).mean() + functional.softplus(-of_target).mean()) / 2


class Distance(nn.Module):
    """A distance between domains that has nothing to learn of its own."""

    def __init__(self, measure: Callable[[Tensor, Tensor], Tensor]) -> None:
        """`measure` is `mmd` or `coral`."""
        super().__init__()
        self.measure = measure
        self.strength = 0.0

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """(B, H) and (B', H) -> () λ times the distance."""
        return self.strength * self.measure(source, target)


class Information(nn.Module):
    """What predictions say of the target's text; it asks nothing of the source."""

    def __init__(self) -> None:
        """Nothing to learn."""
        super().__init__()
        self.strength = 0.0

    def forward(self, logs: Tensor) -> Tensor:
        """(P, C) log p of the target's text -> () −λ times their mutual information."""
        return -self.strength * mutual_information(logs)


def mmd(source: Tensor, target: Tensor) -> Tensor:
    """() squared maximum mean discrepancy under a sum of Gaussians.

    mean k(s, s') + mean k(t, t') - 2 mean k(s, t) (Gretton et al. 2012, eq. 3); the biased
    estimate, which is never below zero. Bandwidths follow the mean squared distance (Long et al.
    2015).
    """
    both = torch.cat([source, target]).float()
    distances = torch.cdist(both, both).square()
    rows = len(both)
    scale = distances.detach().sum() / max(1, rows * (rows - 1))
    kernel = sum(
        (torch.exp(-distances / (width * scale.clamp(min=1e-12))) for width in BANDWIDTHS),
        torch.zeros_like(distances),
    )
    n = len(source)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def coral(source: Tensor, target: Tensor) -> Tensor:
    """() ‖C_s - C_t‖² / 4H², C the covariance of a domain's features (Sun and Saenko 2016, eq. 1).

    A batch of one row has no covariance; its part is zero.
    """

    def covariance(features: Tensor) -> Tensor:
        centred = features.float() - features.float().mean(0)
        return centred.T @ centred / max(1, len(features) - 1)

    with torch.autocast(source.device.type, enabled=False):  # small differences of large numbers
        difference = covariance(source) - covariance(target)
    return difference.square().sum() / (4 * source.shape[-1] ** 2)


def proxy_a_distance(source: np.ndarray, target: np.ndarray, seed: int) -> float:
    """2 (1 - 2ε), ε the error of a linear classifier that tells the domains apart.

    0: no better than chance; 2: always right. Each row is judged once, by one of five classifiers
    that have not seen it; each domain counts the same. Ben-David et al. 2007, section 3.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = np.concatenate([source, target])
    domain = np.repeat([0, 1], [len(source), len(target)])
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced")
    )
    folds = StratifiedKFold(min(5, len(source), len(target)), shuffle=True, random_state=seed)
    error = 1 - balanced_accuracy_score(
        domain, cross_val_predict(classifier, features, domain, cv=folds)
    )
    return max(0.0, float(2 * (1 - 2 * error)))
