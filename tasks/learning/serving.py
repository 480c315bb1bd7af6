"""What a registered model runs. Travels inside the model, and needs nothing else of Graft.

model/learner/…       weights and tokenizer, see `learner.py`
model/served.json     {"application": {"kind": "text_classification", …}}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
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

        rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
        self._check(rows)
        found = predict(self.learner, self.application.kind, rows)
        pairs = zip(rows, found, strict=True)
        return pd.DataFrame([self.application.columns(row, one) for row, one in pairs])

    def predict_stream(
        self, row: dict[str, Any], params: dict[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The answer of a model that writes to one request, {"context": "Hello."}, piece by piece:
        their texts joined are what is written.

        Raises:
            ValueError: as `predict`; or the model does not write.
        """
        from tasks.learning.streaming import stream

        self._check([row])
        for piece in stream(self.learner, self.application.kind, row):
            yield self.application.columns(row, {"text": piece})

    def _check(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for number, row in enumerate(rows, 1):
            for column in self.application.request:
                if column not in row:
                    raise ValueError(
                        f"column '{column}' is missing; given: {', '.join(map(str, row))}"
                    )
                if not isinstance(row[column], str) or not row[column]:
                    raise ValueError(f"row {number}: '{column}' is not a text")


def _load_pyfunc(path: str) -> ServedModel:
    """MLflow's entry point: `path` is the folder the model was logged from."""
    return ServedModel(Path(path))
