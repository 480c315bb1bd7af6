"""The champion of a registered model, in memory, to be asked for as long as a process lives.

It answers in float32 unless bfloat16 is asked for and is as good: in both it answers the frozen
test rows of the run that made it, and bfloat16 is taken unless it is rejected by the verdict on
promotions, on the same paired evidence and within the same margin.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from tasks import promote, registry, tracking
from tasks.comparison import compare
from tasks.errors import GraftError, SourceUnavailable
from tasks.ledger import CHAMPION
from tasks.load import resolve
from tasks.progress import logger
from tasks.tracking import without_credentials
from tasks.training import read_rows
from tasks.verdict import Verdict, verdict

if TYPE_CHECKING:
    from tasks.learning.serving import ServedModel

GREETING = "Hello."
"""What every model is asked before anybody else asks it: the first answer is always slower."""
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Champion:
    """A version that was loaded, and has answered."""

    name: str
    version: str
    precision: Precision
    since: str
    """When it was ready: 2026-11-26T14:45:03Z."""
    columns: Sequence[str]
    """What a row has."""
    model: ServedModel

    def answer(self, rows: Sequence[Mapping[str, str]]) -> str:
        """JSON, an object a row: what `graft predict --json` prints beside the row itself."""
        import pandas as pd

        table = self.model.predict(pd.DataFrame(rows, columns=list(self.columns)))
        return str(table.to_json(orient="records", force_ascii=False))


def champion_version(name: str) -> tuple[str, int]:
    """Which version is in production, and when its model was made: a model that is made anew under
    the same name counts from 1 again.

    Raises:
        SourceUnavailable: no such model, or it has no champion.
        TrackingError: MLflow does not answer.
    """
    version = registry.alias_version(name, CHAMPION)
    if version is None:
        raise SourceUnavailable(
            f"model '{name}' has no champion; graft promote {name} may make its challenger one"
        )
    return version, registry.registered_since(name)


def load_champion(name: str, version: str, wanted: Precision) -> Champion:
    """Load a version, and ask it something.

    Raises:
        SourceUnavailable: it cannot be loaded, or does not answer.
    """
    from tasks.learning.serving import ServedModel

    try:
        with TemporaryDirectory() as copied:
            folder = registry.download_model(f"models:/{name}/{version}", Path(copied))
            model, precision = ServedModel(folder), wanted
            if wanted == "bfloat16" and not as_good(name, version, model):
                del model  # two in memory are enough
                model, precision = ServedModel(folder), "float32"
        columns = model.application.request
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        champion = Champion(name, version, precision, since, columns, model)
        champion.answer([dict.fromkeys(columns, GREETING)])
    except Exception as error:  # a damaged model may raise anything
        first = " ".join(without_credentials(str(error)).split())[:200]
        told = first if isinstance(error, GraftError) else f"{type(error).__name__}: {first}"
        raise SourceUnavailable(
            f"model '{name}': version {version} cannot be loaded ({told})"
        ) from error
    return champion


def as_good(name: str, version: str, model: ServedModel) -> bool:
    """Whether bfloat16 is to be served; the log says why or why not."""
    try:
        judged = judge(name, version, model)
    except SourceUnavailable as error:
        judged = Verdict("reject", str(error))
    good = judged.decision != "reject"
    found = f"bfloat16 over float32: {judged.reason}"
    logger.info("%s: version %s in %s; %s", name, version, "bfloat16" if good else "float32", found)
    return good


def judge(name: str, version: str, model: ServedModel) -> Verdict:
    """Whether bfloat16, in which the model is left, is as good as float32.

    Raises:
        SourceUnavailable: what the run that made it recorded is gone.
    """
    import torch

    from tasks.learning.prediction import predict

    pipeline = resolve(tracking.recorded_configuration(registry.run_of(name, version))[1])
    rows = read_rows(promote.recorded(name, version, "test.parquet"))
    said = {}
    for precision in (torch.float32, torch.bfloat16):
        model.learner.to(precision)
        torch.manual_seed(pipeline.seed)  # where words are drawn
        kind = model.application.kind
        said[str(precision)] = predict(model.learner, kind, rows, supervised=True)
    report = compare(pipeline, said, rows, "torch.bfloat16")
    return verdict(report["gains"]["torch.float32"], 0.0, pipeline.margin, report["units"])
