"""A head that starts as nothing: what stands behind it works as before until it is trained."""

from __future__ import annotations

from torch import Tensor, nn


class Residual(nn.Module):
    """x + W₂ GELU(W₁ x + b₁) + b₂, with W₂ and b₂ zero at first."""

    def __init__(self, width: int, hidden: int) -> None:
        """(..., `width`) -> (..., `width`)."""
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, states: Tensor) -> Tensor:
        """The states, corrected."""
        corrected: Tensor = states + self.layers(states)
        return corrected
