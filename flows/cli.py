"""The `graft` command."""

from __future__ import annotations

import atexit
import gc
import getpass
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.console import (
    console,
    errors,
    keep_stdout_for_json,
    live_steps,
    log_to_stderr,
    quiet_libraries,
    set_verbosity,
)
from flows.server import prefect_server
from tasks.errors import ConfigError, GraftError, StoreError
from tasks.progress import logger

app = typer.Typer(
    help="Transfer learning for NLP that a team can schedule, trust and roll back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
File = Annotated[Path, typer.Option("--file", "-f", help="Where the pipelines are declared.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Set = Annotated[
    list[str],
    typer.Option("--set", metavar="PATH=VALUE", help="Override any value: training.epochs=2."),
]
DEFAULT_FILE = Path("pipelines.yaml")


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Results and errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Options that go before any command."""
    set_verbosity(-1 if quiet else int(verbose))


@app.command()
def run(
    name: Annotated[str | None, typer.Argument(help="A pipeline of the file.")] = None,
    file: File = DEFAULT_FILE,
    overrides: Set = [],  # noqa: B006 - typer wants a list
    from_run: Annotated[
        str | None, typer.Option("--from-run", metavar="ID", help="Repeat an MLflow run.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a pipeline: validate, train, compare with its baselines, register.

    Stages whose inputs have not changed are taken from the store; a killed run goes on from its
    last checkpoint.
    """
    from tasks.load import load, resolve

    if (name is None) == (from_run is None):
        raise ConfigError("graft run: give the name of a pipeline, or --from-run ID, not both")
    if from_run:
        from tasks.tracking import recorded_configuration

        if overrides:
            raise ConfigError("graft run: --set goes with a pipeline's name, not with --from-run")
        name, configuration = recorded_configuration(from_run)
        pipeline = resolve(configuration)
    else:
        assert name is not None
        pipeline = load(file, name, overrides)
    check_home()
    started = time.monotonic()
    if as_json:
        keep_stdout_for_json()
    else:
        console.print(f"Pipeline [bold]{name}[/bold]: {pipeline.description}")
    try:
        with live_steps(not as_json), prefect_and_mlflow():
            from flows.transfer import transfer

            result = transfer(name, pipeline)
            if pipeline.promotion.after_run:
                from flows.promote import promote as promoting

                result["promotion"] = promoting(pipeline.promotion.model)
    except KeyboardInterrupt:  # which Typer makes exit code 130
        errors.print("graft: interrupted; the same command goes on from the last checkpoint")
        raise
    if as_json:
        print(json.dumps(result))
        return
    from flows.report import print_result

    print_result(result, time.monotonic() - started)
    if "promotion" in result:
        from flows.evidence import print_evidence

        print_evidence(result["promotion"])


def check_home() -> None:
    """GRAFT_HOME must be writable before Prefect's server, which would only time out, needs it.

    Raises:
        StoreError: it is not.
    """
    from tasks.store import home

    try:
        home().mkdir(parents=True, exist_ok=True)
        probe = home() / f".writable-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise StoreError(
            f"{home()}: {error.strerror}; set GRAFT_HOME to a folder that can be written"
        ) from error


@contextmanager
def prefect_and_mlflow() -> Iterator[None]:
    """Both within reach, for a flow to run here; its refusals come back as they were raised."""
    with prefect_server() as ready:
        from tasks.tracking import connect

        connect()  # slow to import, and refuses early, while the server comes up
        ready()
        yield


def check_server(command: str) -> None:
    """A Prefect server must be named, since what a command makes there is to outlive it.

    Raises:
        ConfigError: it is not.
        Unreachable: it does not answer.
    """
    from flows.server import check_answers

    if "PREFECT_API_URL" not in os.environ:
        raise ConfigError(
            f"graft {command}: set PREFECT_API_URL to a Prefect server; graft up starts one"
        )
    check_answers(os.environ["PREFECT_API_URL"])


@app.command()
def deploy(
    file: File = DEFAULT_FILE,
    diff: Annotated[bool, typer.Option("--diff", help="Only show what would change.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove what the file no longer has.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put every pipeline on a Prefect server: its form, its schedule, its work pools.

    Twice is as good as once. What is on the server and not in the file is shown, and stays
    unless --prune is given.
    """
    from tasks.load import load, names

    check_server("deploy")
    pipelines = {name: load(file, name) for name in names(file)}
    from flows import deploy as deploying

    told = deploying.changes(pipelines, file.resolve().parent, apply=not diff, prune=prune)
    if as_json:
        print(json.dumps([vars(one) for one in told]))
        return
    deploying.print_changes(told, diff=diff, prune=prune)


@app.command()
def worker(
    pool: Annotated[str, typer.Argument(help="A work pool: cpu, gpu.")],
    devices: Annotated[
        list[str],
        typer.Option("--device", help="A GPU, as CUDA_VISIBLE_DEVICES names it; may be repeated."),
    ] = [],  # noqa: B006
    limit: Annotated[
        int | None, typer.Option(min=1, help="Runs at once. Default: 1 with a GPU, else 10.")
    ] = None,
) -> None:
    """Work for a pool: take runs from the Prefect server, and run each as a process here.

    With --device a run has these GPUs to itself; without, it sees none.
    """
    check_server("worker")
    check_home()
    from flows.worker import start

    start(pool, devices, limit)


@app.command()
def up(
    file: File = DEFAULT_FILE,
    host: Annotated[str, typer.Option("--host", help="Where the servers listen.")] = "127.0.0.1",
    gpus: Annotated[
        int, typer.Option(min=1, help="GPUs of each gpu worker: a run may have as many processes.")
    ] = 1,
    prefect_database: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="GRAFT_PREFECT_DATABASE",
            help="postgresql+asyncpg://…; default: SQLite in GRAFT_HOME.",
        ),
    ] = None,
    mlflow_database: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="GRAFT_MLFLOW_DATABASE",
            help="postgresql://…; default: SQLite in GRAFT_HOME.",
        ),
    ] = None,
) -> None:
    """Start all that a team needs on this machine: servers, deployments and workers.

    Whatever ends is started again; Ctrl-C ends everything.
    """
    from tasks.load import load, names

    for name in names(file):
        load(file, name)
    check_home()
    from flows.up import up as start

    start(file, host, gpus, prefect_database, mlflow_database)


@app.command()
def status(file: File = DEFAULT_FILE, as_json: Json = False) -> None:
    """What runs, what is in production, what waits for a person, and who works."""
    from datetime import UTC, datetime

    from tasks.load import load, names

    check_server("status")
    pipelines = {name: load(file, name) for name in names(file)}
    from flows import status as state

    if as_json:
        keep_stdout_for_json()
    told = state.status(pipelines)
    if as_json:
        print(json.dumps(told))
        return
    state.print_status(told, datetime.now(UTC))


@app.command("list")
def list_pipelines(file: File = DEFAULT_FILE, as_json: Json = False) -> None:
    """The pipelines a file declares."""
    from tasks.load import load, names

    described = {name: load(file, name).description for name in names(file)}
    if as_json:
        print(json.dumps(described))
        return
    for name, description in described.items():
        console.print(f"[bold]{name}[/bold]  {description}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A pipeline of the file.")],
    file: File = DEFAULT_FILE,
    overrides: Set = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """A pipeline with every default filled in."""
    from tasks.load import load

    resolved = load(file, name, overrides).model_dump(mode="json")
    if as_json:
        print(json.dumps(resolved))
        return
    from ruamel.yaml import YAML

    YAML().dump(resolved, sys.stdout)


@app.command()
def check(file: File = DEFAULT_FILE, as_json: Json = False) -> None:
    """Check a file without running anything; names file, line, value and what is accepted."""
    from tasks.load import load, names

    found = names(file)
    for name in found:
        load(file, name)
    if as_json:
        print(json.dumps({"file": str(file), "pipelines": found}))
    else:
        console.print(f"{file}: {len(found)} pipeline(s) in order: {', '.join(found)}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of pipelines.yaml, for editors."""
    from tasks.load import schema as generate

    sys.stdout.write(generate())


@app.command()
def predict(
    name: Annotated[str, typer.Argument(help="A registered model.")],
    text: Annotated[str, typer.Argument(help="A text, or a file: jsonl, csv, parquet or txt.")],
    as_json: Json = False,
) -> None:
    """Ask the champion of a registered model, or its challenger while there is no champion."""
    from flows.answers import answers

    joined = answers(name, text)
    if as_json:
        print(joined.to_json(orient="records", force_ascii=False))
        return
    from rich.table import Table

    drawn = Table(*map(str, joined.columns))
    for values in joined.itertuples(index=False):
        drawn.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in values))
    console.print(drawn)


@app.command()
def chat(name: Annotated[str, typer.Argument(help="A registered dialogue model.")]) -> None:
    """Talk to a model, its champion or while there is none its challenger, a line a turn.

    An empty line begins a new conversation; Ctrl-D ends.
    """
    from flows.chat import converse, load_partner

    partner = load_partner(name)
    if sys.stdin.isatty():
        console.print("An empty line begins a new conversation; Ctrl-D ends.")
    heard = TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="replace")
    converse(partner, heard, sys.stdout)


@app.command()
def serve(
    name: Annotated[str, typer.Argument(help="A registered model.")],
    host: Annotated[str, typer.Option("--host", help="Where it listens.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="0: one that is free.")
    ] = 5001,
    precision: Annotated[
        Literal["float32", "bfloat16"],
        typer.Option(help="bfloat16 is taken if its answers to the test rows are as good."),
    ] = "float32",
    log: Annotated[
        bool, typer.Option("--log", help="Keep requests that say so, redacted, for graft monitor.")
    ] = False,
) -> None:
    """Serve a model's champion over HTTP, in the JSON of MLflow's scoring server.

    POST /invocations asks it; GET /ready says which version answers, and
    GET /health that the process lives. A new champion, after a promotion or
    a rollback, takes over within seconds, and no request is lost.

    Ctrl-C or SIGTERM ends it when the requests that were begun are answered.
    Whoever can reach it may ask: it is for this machine alone, unless --host
    says otherwise (0.0.0.0: for all).
    """
    check_home()
    log_to_stderr()
    logger.info("%s: loading the champion …", name)
    from flows.serve import serve as serving

    serving(name, host, port, precision, keep=log)


@app.command()
def promote(
    model: Annotated[str, typer.Argument(help="A registered model.")], as_json: Json = False
) -> None:
    """Compare a model's challenger with its champion, on the same rows, and promote the better.

    What was decided, why and on what evidence is written to the model's history.
    """
    check_home()
    if as_json:
        keep_stdout_for_json()
    with prefect_and_mlflow():
        from flows.promote import promote as promoting

        result = promoting(model)
    if as_json:
        print(json.dumps(result))
        return
    from flows.evidence import print_evidence

    print_evidence(result)


@app.command()
def monitor(
    model: Annotated[str, typer.Argument(help="A registered model with a champion.")],
    text: Annotated[
        str,
        typer.Argument(help="A file, as graft predict takes it; served: what graft serve kept."),
    ],
    false_alarms: Annotated[
        float,
        typer.Option(
            "--false-alarms",
            min=0.001,
            max=0.5,
            help="How often text of the model's own domain may raise an alarm.",
        ),
    ] = 0.05,
    as_json: Json = False,
) -> None:
    """Compare fresh text with the text a model's champion was made for.

    The exit code is 0 with drift and without; --json has "drifted".
    """
    check_home()
    if as_json:
        keep_stdout_for_json()
    with prefect_and_mlflow():
        from flows.monitor import monitor as monitoring

        report = monitoring(model, text, false_alarms)
    if as_json:
        print(json.dumps(report))
        return
    from flows.drift import print_report

    print_report(report)


def person(by: str | None) -> str:
    """Who answers.

    Raises:
        ConfigError: the name is the one that evidence goes by.
    """
    name = by or getpass.getuser()
    if name.strip().lower() == "graft":
        raise ConfigError("--by: 'graft' is what evidence alone goes by; say who you are")
    return name


@app.command()
def approve(
    run: Annotated[str, typer.Argument(help="The flow run, as graft promote prints it.")],
    by: Annotated[str | None, typer.Option("--by", help="Who you are; default: $USER.")] = None,
    because: Annotated[str, typer.Option("--because", help="Why.")] = "",
    reject: Annotated[bool, typer.Option("--reject", help="Do not promote it.")] = False,
) -> None:
    """Answer for a promotion that waits for a person (promotion.approval: required)."""
    from flows.approval import answer

    answer(run, not reject, person(by), because)
    console.print(
        "Answered; if the flow still runs, graft history soon has what came of it. "
        "Of several answers the first counts."
    )


@app.command()
def history(
    model: Annotated[str, typer.Argument(help="A registered model.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Only look for what was changed or is missing.")
    ] = False,
    known: Annotated[
        str | None,
        typer.Option("--hash", help="With --verify: a hash that --verify printed earlier."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Who decided what about each version of a model, when, and why."""
    from flows.evidence import history_table
    from tasks.ledger import Ledger

    ledger = Ledger(model)
    if verify or known:
        found = ledger.verify(known)
        last = f", the last with the hash {found[-1].hash}" if found else ""
        console.print(f"{model}: {len(found)} entries and their evidence are whole{last}")
        return
    entries = ledger.entries()
    if as_json:
        print(json.dumps([{**vars(entry), "hash": entry.hash} for entry in entries]))
    else:
        console.print(history_table(model, entries))


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(help="A registered model.")],
    to: Annotated[
        str | None, typer.Option("--to", metavar="VERSION", help="Default: the champion before.")
    ] = None,
    by: Annotated[str | None, typer.Option("--by", help="Who you are; default: $USER.")] = None,
    because: Annotated[str, typer.Option("--because", help="Why.")] = "",
) -> None:
    """Give a model its former champion back, at once: nothing is scored or loaded."""
    from tasks.ledger import roll_back

    entry = roll_back(model, to, person(by), because)
    console.print(
        f"{model}: the champion is version {entry.champion} again, and no longer version "
        f"{entry.previous}. Entry {entry.number} of its history."
    )
    if "PREFECT_API_URL" in os.environ:  # nobody would hear it at a server of this command's own
        from flows.announce import announce

        announce(model, entry)


@app.command()
def verify(
    models: Annotated[
        list[str] | None, typer.Argument(help="Which must be there; by default all that are.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that models are whole, after a restore or an upgrade.

    The history of each is gone through, and its versions are scored on their test rows, as they
    were when they were made.
    """
    from tasks import registry
    from tasks.verify import checks

    found = []
    for model in models or registry.models():
        for check in checks(model):
            found.append(vars(check))
            if not as_json:
                said = {True: "whole", False: "NOT WHOLE", None: "gone"}[check.whole]
                console.print(f"{model} {check.part}: {said}: {check.told}", soft_wrap=True)
    if as_json:
        print(json.dumps(found))
    if lost := sum(one["whole"] is False for one in found):
        raise GraftError(f"{lost} of {len(found)} parts are not whole")
    if not as_json:
        whole = sum(one["whole"] is True for one in found)
        console.print(f"{whole} parts are whole" if found else "no model is registered")


@app.command()
def doctor(as_json: Json = False) -> None:
    """What this machine has: versions, device, bf16, mirror, disk, servers."""
    from flows.doctor import findings

    found = findings()
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        console.print(f"{name:18} {value}")


def main() -> None:
    """Run the command; a refusal is one line on stderr and exit code 2."""
    quiet_libraries()
    # Python's last collections would go through all that was imported: seconds, for nothing.
    atexit.register(gc.freeze)
    if "--debug" in sys.argv[1:]:
        app()
        return
    try:
        app()
    except GraftError as error:
        errors.print(f"graft: {error}", markup=False)
        sys.exit(2)
