"""The card of a registered version."""

from __future__ import annotations

import pytest

from tasks import card, provenance


def test_carbon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads for half an hour are 12 Wh; a GPU is taken at its limit, or not at all."""
    trained = {"seconds": 1800, "threads": 2, "processes": 1, "device": "cpu"}
    assert card.carbon(trained) == (
        "- reckoned, not measured: 12 Wh at 24 W, 5.7 g CO₂e at 475 g a kWh, the world's mean"
    )
    for said, expected in (
        ("700.00", "3.6e+02 Wh at 724 W"),
        ("[N/A]", "not reckoned"),
        ("", "not"),
    ):
        monkeypatch.setattr(provenance, "_output", lambda *_, said=said: said)
        assert expected in card.carbon({**trained, "device": "cuda:0"})
