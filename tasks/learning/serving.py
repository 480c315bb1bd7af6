"""What a registered model runs. Travels inside the model, and needs nothing else of Graft.

model/learner/…       weights and tokenizer, see `learner.py`
model/served.json     {"application": {"kind": "text_classification", …}}
"""

from __future__ import annotations

import json
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

        for column in self.application.request:
            if column not in table:
                raise ValueError(
                    f"column '{column}' is missing; given: {', '.join(map(str, table.columns))}"
                )
            wrong = [i for i, v in enumerate(table[column]) if not isinstance(v, str) or not v]
            if wrong:
                raise ValueError(f"row {wrong[0] + 1}: '{column}' is not a text")
        rows = table.to_dict("records")
        found = predict(self.learner, self.application.kind, rows)  # type: ignore[arg-type]
        pairs = zip(rows, found, strict=True)
        return pd.DataFrame([self.application.columns(row, one) for row, one in pairs])  # type: ignore[arg-type]


def _load_pyfunc(path: str) -> ServedModel:
    """MLflow's entry point: `path` is the folder the model was logged from."""
    return ServedModel(Path(path))
