"""A person's word on a promotion, at a real Prefect server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.project import Graft, ended, waiting

pytestmark = pytest.mark.integration


def challenge(graft: Graft, model: str, hours: float) -> None:
    """A challenger of a model without a champion, which evidence alone would promote."""
    settings = {"model": model, "approval": "required", "approval_hours": hours}
    given = [f"promotion.{name}={value}" for name, value in settings.items()]
    code, _, err = ended(graft("run", "toy", *(part for one in given for part in ("--set", one))))
    assert code == 0, err


def test_approved_rejected_and_left(graft: Graft, server: str) -> None:
    """Who approves or rejects stands in the history with the reason; without an answer in time it
    is not promoted; where nobody could answer it is refused at once."""

    def promoted(model: str, *answer: str) -> dict[str, Any]:
        promotion = graft("promote", model, "--json")
        if answer:
            run = waiting(server)
            code, _, err = ended(graft("approve", run, *answer))
            assert code == 0, err
            code, _, err = ended(graft("approve", run, *answer))
            assert (code, "no promotion that waits" in err) == (2, True), err
        code, out, err = ended(promotion)
        assert code == 0, err
        assert "graft approve" in err
        entry: dict[str, Any] = json.loads(out)["entry"]
        return {name: entry[name] for name in ("decision", "champion", "by", "because")}

    challenge(graft, "toy", 1)
    code, _, err = ended(graft("promote", "toy", at=None))
    assert (code, "set PREFECT_API_URL" in err) == (2, True), err
    assert promoted("toy", "--by", "ann", "--because", "it is time") == {
        "decision": "promoted",
        "champion": "1",
        "by": "ann",
        "because": "it is time",
    }
    challenge(graft, "other", 1)
    assert promoted("other", "--by", "bob", "--reject") == {
        "decision": "rejected",
        "champion": None,
        "by": "bob",
        "because": "no reason given",
    }
    challenge(graft, "left", 0.001)
    assert promoted("left") == {
        "decision": "rejected",
        "champion": None,
        "by": "graft",
        "because": "nobody approved it within 0.001 hours",
    }
    code, _, err = ended(graft("approve", "nonsense"))
    assert (code, "'nonsense' is no id of a flow run" in err) == (2, True), err
