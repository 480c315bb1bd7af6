"""The champion of a registered model, in memory, to be asked for as long as a process lives."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks import registry
from tasks.errors import SourceUnavailable
from tasks.ledger import CHAMPION

GREETING = "Hello."
"""What every model is asked before anybody else asks it: the first answer is always slower."""


@dataclass(frozen=True)
class Champion:
    """A version that was loaded, and has answered."""

    name: str
    version: str
    since: str
    """When it was ready: 2026-11-26T14:45:03Z."""
    columns: Sequence[str]
    """What a row has."""
    model: Any

    def answer(self, rows: Sequence[Mapping[str, str]]) -> str:
        """JSON, an object a row, as `graft predict --json` prints them."""
        import pandas as pd

        table = self.model.predict(pd.DataFrame(rows, columns=list(self.columns)))
        return str(table.to_json(orient="records", force_ascii=False))


def champion_version(name: str) -> str:
    """Which version is in production.

    Raises:
        SourceUnavailable: no such model, or it has no champion.
        TrackingError: MLflow does not answer.
    """
    version = registry.alias_version(name, CHAMPION)
    if version is None:
        raise SourceUnavailable(
            f"model '{name}' has no champion; graft promote {name} may make its challenger one"
        )
    return version


def load_champion(name: str, version: str) -> Champion:
    """Load a version, and ask it something.

    Raises:
        SourceUnavailable: it cannot be loaded, or does not answer.
    """
    try:
        model = registry.load_version(name, version)
        columns = model.metadata.get_input_schema().input_names()
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        champion = Champion(name, version, since, columns, model)
        champion.answer([dict.fromkeys(columns, GREETING)])
    except Exception as error:  # a damaged model may raise anything
        first = " ".join(str(error).split())[:200]
        raise SourceUnavailable(
            f"model '{name}': version {version} cannot be loaded ({first})"
        ) from error
    return champion
