"""What a registered model says about a text, or about each row of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.inputs import read_inputs

if TYPE_CHECKING:
    import pandas as pd


def answers(name: str, text: str) -> pd.DataFrame:
    """The model's input columns, and its predictions beside them.

    Raises:
        SourceUnavailable: no such model.
        DataError: the file cannot be read, lacks a column, or a row has no text in it.
    """
    import pandas as pd

    from tasks.registry import load_model

    model = load_model(name)
    inputs = read_inputs(text, model.metadata.get_input_schema().input_names())
    joined: pd.DataFrame = pd.concat([inputs, model.predict(inputs)], axis=1)
    return joined
