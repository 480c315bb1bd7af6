"""What a registered model says about a text, or about each row of a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def answers(name: str, text: str) -> pd.DataFrame:
    """The model's input columns, and its predictions beside them.

    Raises:
        SourceUnavailable: no such model.
        DataError: the file cannot be read, lacks a column, or a row has no text in it.
    """
    import pandas as pd

    from tasks.ingest import turns
    from tasks.registry import load_model

    model = load_model(name)
    wanted = model.metadata.get_input_schema().input_names()
    table = read_inputs(text, wanted[0])
    if missing := [column for column in wanted if column not in table]:
        raise DataError(f"{text}: no column '{missing[0]}'; found: {', '.join(map(str, table))}")
    inputs = table[wanted].reset_index(drop=True)
    for column in wanted:  # a conversation may be a list, as in the data
        inputs[column] = [turns(v) if isinstance(v, list) else v for v in inputs[column]]
    for column in wanted:
        blank = [i for i, v in enumerate(inputs[column], 1) if not isinstance(v, str) or not v]
        if blank:
            raise DataError(f"{text}: row {blank[0]}: '{column}' is not a text")
    joined: pd.DataFrame = pd.concat([inputs, model.predict(inputs)], axis=1)
    return joined


def read_inputs(text: str, column: str) -> pd.DataFrame:
    """The text itself as a table with that one column, or a file, if there is one of that name.

    Raises:
        DataError: the file cannot be read.
    """
    import pandas as pd

    path = Path(text)
    try:
        is_file = path.is_file()
    except OSError:  # a text too long for a file name
        is_file = False
    if not is_file:
        return pd.DataFrame({column: [text]})
    readers = {
        ".jsonl": lambda: pd.read_json(path, lines=True, dtype=False),
        ".csv": lambda: pd.read_csv(path, dtype=str, keep_default_na=False),
        ".parquet": lambda: pd.read_parquet(path),
        ".txt": lambda: pd.DataFrame({column: path.read_text(encoding="utf-8").splitlines()}),
    }
    if path.suffix not in readers:
        raise DataError(f"{path}: '{path.suffix}' is unknown; accepted: {', '.join(readers)}")
    try:
        return readers[path.suffix]()
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: {' '.join(str(error).split())[:150]}") from error
