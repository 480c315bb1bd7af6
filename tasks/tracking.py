"""Runs in MLflow: parameters, metrics, artifacts. It, `registry.py` and `ledger.py` import mlflow.

One parent run a pipeline run, one nested run a baseline and one for the transfer. Run ids are
explicit everywhere, since MLflow's active run is a thread's own.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import progress, provenance, store
from tasks.config import Pipeline
from tasks.errors import SourceUnavailable, TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

SECONDS_BETWEEN_SENDS = 5.0
CONFIGURATION = "pipeline.json"
NAME = re.compile(r"[\w.\- ]+")
"""What MLflow takes as part of a parameter's name."""
CREDENTIALS = re.compile(r"://[^/\s]*@")
"""User and password in an address: never shown."""
LOG_EVERY = 10
FLOW_RUN = "graft.flow_run"
"""The tag that names a deployed run of Prefect's."""


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or a SQLite file under GRAFT_HOME."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.home() / 'mlflow.db'}"


def without_credentials(text: str) -> str:
    """Text that may hold addresses, without the users and passwords in them."""
    return CREDENTIALS.sub("://", text)


def connect() -> MlflowClient:
    """A client that gives up on an unreachable server in seconds, not minutes.

    Raises:
        TrackingError: the server does not answer.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    store.home().mkdir(parents=True, exist_ok=True)
    configured = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(tracking_uri())
    if configured is None:  # MLflow sets it; Graft must still see that the user did not
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    with refusals_named():
        client = mlflow.MlflowClient()
        client.search_experiments(max_results=1)
    return client


@contextmanager
def refusals_named() -> Iterator[None]:
    """Turn MLflow's and its transports' errors into one line."""
    import requests
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, requests.RequestException, sqlalchemy.exc.SQLAlchemyError) as error:
        first = without_credentials(" ".join(str(error).split()))[:500]
        uri = without_credentials(tracking_uri())
        raise TrackingError(f"MLflow at {uri}: {first}; check MLFLOW_TRACKING_URI") from error


class Tracker:
    """The MLflow runs of one pipeline run."""

    def __init__(
        self,
        name: str,
        pipeline: Pipeline,
        parent: str | None = None,
        flow_run: str | None = None,
    ) -> None:
        """Open the parent run, or go on with one that another process opened: `parent`, or that of
        the same `flow_run`, which died and was started again.

        Raises:
            TrackingError: the server does not answer or refuses.
        """
        self.client, self.name, self.pipeline = connect(), name, pipeline
        with refusals_named():
            self.experiment = self._experiment()
            self.parent = parent or self._begun(flow_run) or self._open(flow_run)
        self.children = self._nested()
        self._complete: set[str] = set()
        self._sent: dict[str, int] = {}
        self._waiting: dict[str, list[tuple[int, Mapping[str, float]]]] = {}
        self._last_send = time.monotonic()

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.name)
        if found is not None:
            return str(found.experiment_id)
        local = tracking_uri().startswith("sqlite:")
        root = (store.home() / "mlartifacts" / self.name).as_uri() if local else None
        return str(self.client.create_experiment(self.name, artifact_location=root))

    def _begun(self, flow_run: str | None) -> str | None:
        """The parent run that this flow run opened before."""
        if flow_run is None:
            return None
        found = self.client.search_runs([self.experiment], f"tags.`{FLOW_RUN}` = '{flow_run}'")
        return str(found[0].info.run_id) if found else None

    def _open(self, flow_run: str | None) -> str:
        """A new parent run, with the configuration."""
        known = {FLOW_RUN: flow_run} if flow_run else {}
        parent = self._start(self.name, {**provenance.tags(), **known})
        self.client.log_batch(parent, params=list(_params(self.pipeline)))
        text = json.dumps(self.pipeline.model_dump(mode="json"), indent=1)
        self.client.log_text(parent, text, CONFIGURATION)
        return parent

    def _nested(self) -> dict[str, str]:
        """The nested runs there are, by system."""
        with refusals_named():
            found = self.client.search_runs(
                [self.experiment], f"tags.`mlflow.parentRunId` = '{self.parent}'"
            )
        return {run.data.tags["graft.system"]: run.info.run_id for run in found}

    def adopt(self) -> None:
        """Take over the nested runs of a process that joined this run: their curves are whole."""
        self.children |= self._nested()
        self._complete |= set(self.children.values())

    def _start(self, name: str, tags: Mapping[str, str]) -> str:
        run = self.client.create_run(self.experiment, run_name=name, tags=dict(tags))
        return str(run.info.run_id)

    def child(self, subject: str) -> str:
        """The nested run of a system, opened on first use."""
        if subject not in self.children:
            tags = {"mlflow.parentRunId": self.parent, "graft.system": subject}
            self.children[subject] = self._start(subject, tags)
        return self.children[subject]

    def listen(self, subject: str, step: int, steps: int, values: Mapping[str, float]) -> None:
        """Pass on each logged step while training runs; see `progress.listeners`."""
        if step % LOG_EVERY and step != steps and not any("validation" in v for v in values):
            return
        self._waiting.setdefault(subject, []).append((step, dict(values)))
        if time.monotonic() - self._last_send > SECONDS_BETWEEN_SENDS:
            try:
                with refusals_named():
                    self.send()
            except TrackingError as error:  # hours of training must not end for want of a curve
                progress.logger.warning("%s; trying again later", error)
                self._last_send = time.monotonic()

    def send(self) -> None:
        """Send what waits, in one batch a run."""
        for subject in list(self._waiting):
            lines = self._waiting[subject]
            self._log_lines(self.child(SUBJECT_RUNS.get(subject, subject)), lines)
            self._sent.setdefault(subject, lines[0][0])
            del self._waiting[subject]
        self._last_send = time.monotonic()

    def complete(self, subject: str, metrics: Path) -> None:
        """Send the steps of a finished training that were not sent live (cached, or resumed)."""
        self.send()
        run = self.child(SUBJECT_RUNS.get(subject, subject))
        if run in self._complete:
            return
        lines = [json.loads(line) for line in metrics.open(encoding="utf-8")]
        first = self._sent.get(subject, float("inf"))
        missed = [(line.pop("step"), line) for line in lines if line["step"] < first]
        self._log_lines(run, missed)

    def _log_lines(self, run: str, lines: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(n, v, now, step) for step, values in lines for n, v in values.items()]
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(run, metrics=metrics[start : start + 1000])

    def data(self, run: str, name: str, path: Path, digest: str, context: str) -> None:
        """Name a data set a run used, by digest."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name, digest[:32], "local", json.dumps({"uri": str(path)}))
        tag = InputTag("mlflow.data.context", context)
        self.client.log_inputs(run, [DatasetInput(dataset, [tag])])

    def values(self, run: str, values: Mapping[str, float]) -> None:
        """Final values of a run."""
        self._log_lines(run, [(0, values)])

    def artifact(self, run: str, path: Path, name: str) -> None:
        """Log a file, or a folder with what is in it, under `name`."""
        if path.is_dir():
            inside = name if path.name != "data_docs" else f"{name}/{path.name}"
            self.client.log_artifacts(run, str(path), inside)
        else:
            self.client.log_artifact(run, str(path), name)

    def challenge(self, model: str, version: str) -> None:
        """Point the alias `challenger` at a version."""
        self.client.set_registered_model_alias(model, "challenger", version)

    def tag(self, run: str, key: str, value: str) -> None:
        """Set a tag."""
        self.client.set_tag(run, key, value)

    def finish(self, status: str) -> None:
        """Close every run: FINISHED, FAILED or KILLED."""
        self.send()
        for run in (*self.children.values(), self.parent):
            self.client.set_terminated(run, status)


SUBJECT_RUNS = {"source": "source_only"}
"""Training whose curve belongs to another system's run."""


@contextmanager
def tracked(name: str, pipeline: Pipeline, flow_run: str | None = None) -> Iterator[Tracker]:
    """Runs in MLflow for what happens inside; failed and interrupted ones are marked so.

    Args:
        name: the experiment's.
        pipeline: what is recorded.
        flow_run: a run of Prefect's that goes on with its own run if it is started again.
    """
    tracker = Tracker(name, pipeline, flow_run=flow_run)
    status = "FAILED"
    try:
        with listening(tracker):
            yield tracker
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        try:
            with refusals_named():
                tracker.finish(status)
        except TrackingError as error:
            if status == "FINISHED":
                raise
            progress.logger.warning("%s", error)  # what ended the run matters more


@contextmanager
def joined(name: str, pipeline: Pipeline, parent: str) -> Iterator[Tracker]:
    """The runs that another process opened, for what happens inside; it closes them."""
    tracker = Tracker(name, pipeline, parent)
    with listening(tracker):
        yield tracker
        tracker.send()


@contextmanager
def listening(tracker: Tracker) -> Iterator[None]:
    """Each step of what is trained inside is sent."""
    progress.listeners.append(tracker.listen)
    try:
        with refusals_named():
            yield
    finally:
        progress.listeners.remove(tracker.listen)


def _params(pipeline: Pipeline) -> Iterator[Any]:
    """The configuration as flat parameters: training.epochs = 5."""
    from mlflow.entities import Param

    def walk(place: str, node: Any) -> Iterator[Any]:
        if isinstance(node, dict) and all(NAME.fullmatch(key) for key in node):
            for key, value in node.items():
                yield from walk(f"{place}.{key}" if place else key, value)
        else:
            yield Param(place, json.dumps(node) if isinstance(node, list | dict) else str(node))

    yield from walk("", pipeline.model_dump(mode="json"))


def run_file(run_id: str, name: str) -> Path:
    """A file that a run logged, on this machine.

    Raises:
        SourceUnavailable: the run has no such file any more.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    client = connect()
    try:
        uri = f"{client.get_run(run_id).info.artifact_uri}/{name}"
        return Path(mlflow.artifacts.download_artifacts(uri))
    except (MlflowException, OSError) as error:
        raise SourceUnavailable(f"MLflow run {run_id}: '{name}' is not there") from error


def run_values(run_id: str) -> dict[str, float]:
    """The final values of a run.

    Raises:
        TrackingError: MLflow does not answer or refuses.
    """
    client = connect()
    with refusals_named():
        return dict(client.get_run(run_id).data.metrics)


def log_beside(run_id: str, name: str, folder: Path, values: Mapping[str, float]) -> str:
    """A new run in the experiment of another, with values and the files of a folder; its id."""
    client = connect()
    with refusals_named():
        experiment = client.get_run(run_id).info.experiment_id
        made = str(client.create_run(experiment, run_name=name, tags=provenance.tags()).info.run_id)
        for metric, value in values.items():
            client.log_metric(made, metric, value)
        client.log_artifacts(made, str(folder))
        client.set_terminated(made)
    return made


def last_beside(experiment: str, name: str, since: int) -> tuple[str, dict[str, float]] | None:
    """Of the runs that `log_beside` made under this name, since then in milliseconds, the last one:
    when, 2026-11-26T14:45:03Z, and its values."""
    client = connect()
    with refusals_named():
        found = client.search_runs(
            [experiment],
            f"attributes.run_name = '{name}' and attributes.status = 'FINISHED' "
            f"and attributes.start_time >= {since}",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
    if not found:
        return None
    at = time.gmtime(found[0].info.start_time / 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", at), dict(found[0].data.metrics)


def address(run_id: str, name: str) -> str | None:
    """Where a browser shows an artifact of a run, if MLflow is a server and not a file."""
    server = without_credentials(tracking_uri()).rstrip("/")
    if not server.startswith(("http://", "https://")):
        return None
    with refusals_named():
        experiment = connect().get_run(run_id).info.experiment_id
    return f"{server}/#/experiments/{experiment}/runs/{run_id}/artifacts/{name}"


def recorded_configuration(run_id: str) -> tuple[str, str]:
    """The pipeline's name and the configuration that a run recorded, as JSON.

    Raises:
        SourceUnavailable: no such run, or it is not a run of Graft's.
    """
    from mlflow.artifacts import load_text
    from mlflow.exceptions import MlflowException

    client = connect()
    try:
        run = client.get_run(run_id)
        parent = run.data.tags.get("mlflow.parentRunId")
        run = client.get_run(parent) if parent else run
        text = load_text(f"{run.info.artifact_uri}/{CONFIGURATION}")
    except (MlflowException, OSError) as error:
        raise SourceUnavailable(f"run '{run_id}': not a recorded run of graft") from error
    return str(client.get_experiment(run.info.experiment_id).name), text
