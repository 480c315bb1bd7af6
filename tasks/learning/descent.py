"""Gradient descent on weights that stand in for a learner's own: the inner steps of meta-learning.

φ ← φ − α ∇L(φ), where φ may stay a function of where it started. Finn et al. 2017, eq. 1
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tasks.learning.contracts import Batch
from tasks.learning.learner import Learner, last_layer

Weights = dict[str, Tensor]
"""Trainable parameters by their names in the learner."""


def twice_differentiable() -> AbstractContextManager[None]:
    """Attention as plain matrix products inside: the fused kernels have no second derivative."""
    kernel: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return kernel


def loss_at(learner: Learner, task: str, weights: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """() the task's loss with `weights` in the place of the learner's own."""
    loss: Tensor = torch.func.functional_call(learner, dict(weights), (task, batch)).loss
    return loss


def gradients_of(loss: Tensor, weights: Mapping[str, Tensor], *, through: bool = False) -> Weights:
    """∇ of the loss by those weights that it depends on."""
    found = torch.autograd.grad(
        loss, list(weights.values()), create_graph=through, allow_unused=True
    )
    return {n: g for n, g in zip(weights, found, strict=True) if g is not None}


def descended(
    learner: Learner,
    task: str,
    weights: Mapping[str, Tensor],
    batches: list[Batch],
    rate: float,
    *,
    through: bool = False,
) -> Weights:
    """Weights after one step of gradient descent a batch.

    With `through` they stay a function of the `weights` given; else they are new ones.
    """
    for batch in batches:
        found = gradients_of(loss_at(learner, task, weights, batch), weights, through=through)
        moved = {n: weights[n] - rate * gradient for n, gradient in found.items()}
        if not through:
            moved = {n: p.detach().requires_grad_() for n, p in moved.items()}
        weights = {**weights, **moved}
        torch.clear_autocast_cache()  # else it keeps a cast of every step's weights
    return dict(weights)


def zeroed(learner: Learner, task: str) -> Weights:
    """A task's last layer at zero, which favours no label (Ye and Chao 2022, UNICORN-MAML)."""
    last = {id(p) for p in last_layer(learner.heads[task]).parameters()}
    return {
        n: torch.zeros_like(p).requires_grad_()
        for n, p in learner.named_parameters()
        if id(p) in last
    }


def accumulate(
    weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], share: float
) -> None:
    """Add a share of these gradients to .grad."""
    for name, gradient in gradients.items():
        parameter = weights[name]
        own = share * gradient
        parameter.grad = own if parameter.grad is None else parameter.grad + own
