"""What a registered model runs. Travels inside the model, and needs nothing else of Graft.

model/learner/…       weights and tokenizer, see `learner.py`
model/served.json     {"application": {"kind": "text_classification", …}}
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from tasks.learning.applications import AnyApplication
from tasks.learning.contracts import Application
from tasks.learning.learner import load_learner
from tasks.learning.prediction import predict

if TYPE_CHECKING:
    import pandas as pd

SERVED = "served.json"


def describe(folder: Path, application: Application) -> None:
    """Write served.json beside a saved learner."""
    served = {"application": application.model_dump(mode="json")}
    (folder / SERVED).write_text(json.dumps(served, indent=1), encoding="utf-8")


class ServedModel:
    """Predicts on a table of the application's input columns."""

    def __init__(self, folder: Path) -> None:
        """Load weights and tokenizer."""
        served = json.loads((folder / SERVED).read_text(encoding="utf-8"))
        self.application: Application = TypeAdapter(AnyApplication).validate_python(
            served["application"]
        )
        self.learner = load_learner(folder / "learner", {self.application.kind: self.application})

    def predict(self, table: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One row out for each request, with the columns `Application.columns` names.

        Raises:
            ValueError: an input column is missing or holds something that is not text.
        """
        import pandas as pd

        rows = self._rows(table)
        found = predict(self.learner, self.application.kind, rows)
        pairs = zip(rows, found, strict=True)
        return pd.DataFrame([self.application.columns(row, one) for row, one in pairs])

    def predict_stream(
        self, table: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The answer to the only request, of a model that writes, piece by piece: their texts
        joined are what is written.

        Raises:
            ValueError: as `predict`; or there are several requests, or the model does not write.
        """
        from tasks.learning.streaming import stream

        rows = self._rows(table)
        if len(rows) != 1:
            raise ValueError(f"{len(rows)} requests; only one at a time can be streamed")
        for piece in stream(self.learner, self.application.kind, rows[0]):
            yield self.application.columns(rows[0], {"text": piece})

    def _rows(self, table: pd.DataFrame) -> list[dict[str, Any]]:
        """The requests, checked."""
        for column in self.application.request:
            if column not in table:
                raise ValueError(
                    f"column '{column}' is missing; given: {', '.join(map(str, table.columns))}"
                )
            wrong = [i for i, v in enumerate(table[column]) if not isinstance(v, str) or not v]
            if wrong:
                raise ValueError(f"row {wrong[0] + 1}: '{column}' is not a text")
        rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
        return rows


def _load_pyfunc(path: str) -> ServedModel:
    """MLflow's entry point: `path` is the folder the model was logged from."""
    return ServedModel(Path(path))
