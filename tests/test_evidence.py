"""What the Prefect UI is shown of a promotion."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from flows.evidence import markdown
from tasks import tracking


def said(champion: str | None) -> dict[str, Any]:
    """Evidence as `tasks/promote.py` writes it, of nothing but a challenger's score."""
    score = {"macro_f1": {"value": 0.8, "low": 0.7, "high": 0.9}}
    return {
        "model": "toy",
        "challenger": "2",
        "champion": champion,
        "frozen": "0" * 64,
        "left_out": 0,
        "looks": 0,
        "verdict": {"decision": "promote", "reason": "gain"},
        "gates": [{"name": "worst slice", "found": "label <b>: -1", "passed": False}],
        "report": {
            "metric": "macro_f1",
            "confidence": 0.95,
            "rows": 20,
            "systems": {"challenger": score},
        },
    }


def test_markdown_links_what_has_an_address() -> None:
    """The rows that change where there is a champion, else the answers; a label is no markup."""
    shown = markdown(said("1"), "run", "http://mlflow/flips.html")
    assert "Rows that change: [`flips.html`](http://mlflow/flips.html) in MLflow run `run`" in shown
    assert "- **worst slice** shut: label &lt;b&gt;: -1" in shown
    gate = {"name": "worst slice", "found": "label [yes](http://evil)\n# so", "passed": True}
    shown = markdown({**said("1"), "gates": [gate]}, "run", None)
    assert "passed: label \\[yes\\](http://evil) \\# so\n" in shown
    assert "Every answer: `predictions` in MLflow run `run`" in markdown(said(None), "run", None)


def test_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file has none, and that of a server is shown without its password."""
    assert tracking.address("run", "flips.html") is None
    found = SimpleNamespace(info=SimpleNamespace(experiment_id="7"))
    monkeypatch.setattr(tracking, "connect", lambda: SimpleNamespace(get_run=lambda _: found))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:secret@mlflow/")
    where = "https://mlflow/#/experiments/7/runs/run/artifacts/flips.html"
    assert tracking.address("run", "flips.html") == where
