"""Registered models in MLflow: register, look up, download, load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tasks import provenance
from tasks.errors import SourceUnavailable
from tasks.learning.contracts import Application
from tasks.tracking import Tracker, connect, refusals_named, without_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

T = TypeVar("T")
UNKNOWN = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
"""What MLflow answers where there is no such thing, or its name could be none."""
DESCRIPTION = 4900
"""Letters that MLflow keeps of a version's description, on whatever database (it has 5,000)."""


def looked_up(ask: Callable[[MlflowClient], T]) -> T | None:
    """What the registry has; None: no such model, version or alias.

    Raises:
        TrackingError: MLflow does not answer, so that nobody knows.
    """
    from mlflow.exceptions import MlflowException

    client = connect()
    with refusals_named():
        try:
            return ask(client)
        except MlflowException as error:
            if error.error_code not in UNKNOWN:
                raise
            return None


def registered(model: str, version: str) -> str | None:
    """A version as the registry writes it, "1" for "01"; None: there is none of it, any more."""
    found = looked_up(lambda client: client.get_model_version(model, version))
    return str(found.version) if found else None


def registered_model(model: str) -> RegisteredModel:
    """What the registry says of a model.

    Raises:
        SourceUnavailable: no such model.
    """
    found = looked_up(lambda client: client.get_registered_model(model))
    if found is None:
        raise SourceUnavailable(f"model '{model}' is not in the registry")
    return found


def models() -> list[str]:
    """All models of which Graft registered a version.

    Raises:
        TrackingError: MLflow does not answer.
    """
    client, found, token = connect(), set(), None
    with refusals_named():
        while True:
            page = client.search_model_versions(max_results=1000, page_token=token)
            found |= {str(version.name) for version in page if "graft.run" in version.tags}
            if not (token := page.token):
                return sorted(found)


def registered_since(model: str) -> int:
    """When a model was made, in milliseconds.

    Raises:
        SourceUnavailable: no such model.
    """
    return int(registered_model(model).creation_timestamp)


def alias_version(model: str, alias: str) -> str | None:
    """The version an alias is at.

    Raises:
        SourceUnavailable: no such model.
    """
    aliases = registered_model(model).aliases
    return str(aliases[alias]) if alias in aliases else None


def run_of(model: str, version: str) -> str:
    """The MLflow run of the flow that made a version.

    Raises:
        SourceUnavailable: no such version, or not one of Graft's.
    """
    found = looked_up(lambda client: client.get_model_version(model, version))
    if found is None or "graft.run" not in found.tags:
        raise SourceUnavailable(
            f"model '{model}' version {version}: not a version that graft registered"
        )
    return str(found.tags["graft.run"])


def download_model(uri: str, into: Path | None = None) -> Path:
    """The data folder of a model that Graft registered: `models:/NAME@ALIAS` or `models:/NAME/3`.

    Args:
        uri: which.
        into: a folder to copy it to; None: it is read where it lies, or, if that is another
            machine, copied to a temporary folder that stays.

    Raises:
        SourceUnavailable: no such model or version, or it cannot be had.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    connect()
    place = str(into) if into else None
    try:
        folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=place))
    except (MlflowException, OSError) as error:
        first = without_credentials(str(error)).splitlines()[0]
        raise SourceUnavailable(f"{uri}: cannot be had from the registry ({first})") from error
    model = folder / "data" / "model"
    if not model.is_dir():
        raise SourceUnavailable(f"{uri}: not a model that Graft registered")
    return model


def load_model(name: str) -> Any:
    """The champion of a registered model, or its challenger while there is no champion.

    Raises:
        SourceUnavailable: neither is there.
    """
    import mlflow

    found = looked_up(lambda client: client.get_registered_model(name))
    for alias in ("champion", "challenger"):
        if found and alias in found.aliases:
            return mlflow.pyfunc.load_model(f"models:/{name}@{alias}")
    raise SourceUnavailable(f"model '{name}': no champion and no challenger in the registry")


def loaded_by(application: Application, data: Path, code: Path) -> dict[str, Any]:
    """What MLflow is told of how a model is loaded and asked."""
    return {
        "loader_module": "tasks.learning.serving",
        "data_path": str(data),
        "code_paths": [str(code)],
        "streamable": not application.labels,  # those that write can be read as they do
        "metadata": {"application": application.model_dump(mode="json")},
    }


def register_model(
    tracker: Tracker, key: str, data: Path, code: Path, example: Any, output: Any, card: str
) -> dict[str, str]:
    """Log a model to the transfer's run and register it.

    A version that carries the same key, left by a run killed right after registration, is taken
    instead of a second one.
    """
    import mlflow
    from mlflow.models import infer_signature

    model, client = tracker.pipeline.promotion.model, tracker.client
    found = client.search_model_versions(f"name='{model}' and tags.`graft.key`='{key}'")
    if not found:
        with mlflow.start_run(run_id=tracker.child("transfer")):
            logged = mlflow.pyfunc.log_model(
                name="model",
                **loaded_by(tracker.pipeline.application, data, code),
                pip_requirements=provenance.serving_requirements(),
                signature=infer_signature(example, output),
                input_example=example,
            )
        tags = {"graft.key": key, "graft.run": tracker.parent}
        version = mlflow.register_model(logged.model_uri, model, tags=tags)
        short = card if len(card) <= DESCRIPTION else f"{card[:DESCRIPTION]}…"
        client.update_model_version(model, version.version, description=short)
    else:
        version = found[0]
    return {"model": model, "version": str(version.version), "run": tracker.parent}
