"""The terminal: Graft's own lines and bars, and other libraries' chatter kept out of the way."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tasks import progress, store

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def quiet_libraries() -> None:
    """Settings that must be in the environment before Prefect, MLflow and others are imported."""
    settings = {
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads starve each other on shared cores
        "PREFECT_HOME": str(store.home() / "prefect"),
        "PREFECT_LOGGING_EXTRA_LOGGERS": "graft",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore")


def set_verbosity(level: int) -> None:
    """-1 says nothing but results and errors, 0 stages and progress, 1 everything Graft logs."""
    logger = logging.getLogger("graft")
    logger.handlers = [
        RichHandler(console=console, show_path=False, show_level=False, log_time_format="%H:%M:%S")
    ]
    logger.setLevel({-1: logging.WARNING, 0: logging.INFO}.get(level, logging.DEBUG))


def keep_stdout_for_json() -> None:
    """How far a run has come is told on stderr from here on."""
    for handler in logging.getLogger("graft").handlers:
        if isinstance(handler, RichHandler):
            handler.console = errors


def log_to_stderr() -> None:
    """Lines as services log them, each with its time and of whatever length, from here on."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.getLogger("graft").handlers = [handler]


@contextmanager
def live_steps(enabled: bool) -> Iterator[None]:
    """A bar for the training that is under way, where a person is watching."""
    if not enabled or not console.is_terminal:
        yield
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    bars: dict[str, int] = {}
    with Progress(*columns, console=console, transient=True) as bar:

        def listen(subject: str, step: int, steps: int, values: Mapping[str, float]) -> None:
            if subject not in bars:
                bars[subject] = bar.add_task(subject, total=steps, note="")
            task = bars[subject]
            bar.update(task, completed=step, note=progress.describe(values))  # type: ignore[arg-type]
            if step == steps:
                bar.remove_task(bars.pop(subject))  # type: ignore[arg-type]

        progress.listeners.append(listen)
        try:
            yield
        finally:
            progress.listeners.remove(listen)
