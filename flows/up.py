"""`graft up`: every service of one machine, started in order, watched, and stopped together.

Prefect's server, MLflow's server, the deployments, a worker of the pool `cpu` and those of the pool
`gpu`, one a GPU unless they are to have several. Each writes to a file of its own in
GRAFT_HOME/logs.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

from filelock import FileLock, Timeout

from flows.console import console
from tasks import store
from tasks.errors import ConfigError, GraftError
from tasks.progress import logger

PREFECT_PORT, MLFLOW_PORT = 4200, 5000
PATIENCE = 180.0
"""Seconds until a server answers."""
GRACE = 60.0
"""Seconds a service has to end once it is told to: a worker ends its runs first."""
OFTEN, SHORTLY = 5, 60.0
"""So many starts of a service in so many seconds, and something is wrong with it."""
ALL, LOOPBACK = "0.0.0.0", "127.0.0.1"
"""The hosts that stand for all of this machine's addresses, and for none that others reach."""
PRIVATE = (
    *("localhost:*", "127.0.0.1:*", "10.*", "192.168.*"),
    *("172.1[6-9].*", "172.2[0-9].*", "172.3[01].*"),
)
"""The Hosts that MLflow takes by itself, as it writes them."""
LEASES = "prefect.server.concurrency.lease_storage.filesystem"
"""Where Prefect's server keeps who holds a slot: in memory, a restart would leave it taken."""
BIN = Path(sys.executable).parent
MIGRATES = ("-P", "-m", "flows.migrate")


@dataclass
class Service:
    """A process that is started again when it ends."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    starts: list[float] = field(default_factory=list)

    @property
    def log(self) -> Path:
        """Where what it says is written."""
        return store.home() / "logs" / f"{self.name}.log"

    def start(self) -> None:
        """Start it."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.starts.append(time.monotonic())
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(BIN / self.command[0]), *self.command[1:]],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for `graft up`, which ends them in order
            )

    def ended(self) -> bool:
        """Whether it no longer runs."""
        return self.process is None or self.process.poll() is not None

    def restart(self) -> None:
        """Start it again.

        Raises:
            GraftError: it ends again and again.
        """
        assert self.process is not None
        code = self.process.returncode
        recent = [at for at in self.starts if time.monotonic() - at < SHORTLY]
        if len(recent) >= OFTEN:
            raise GraftError(f"{self.name} keeps ending (exit code {code}); see {self.log}")
        logger.warning("%s ended (exit code %s), and is started again", self.name, code)
        self.start()

    def signal(self, number: signal.Signals) -> None:
        """Signal it and what it started."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


@dataclass(frozen=True)
class Addresses:
    """Where the two servers are."""

    prefect: str
    """http://127.0.0.1:4200"""
    mlflow: str

    @property
    def environment(self) -> dict[str, str]:
        """What clients of both must find."""
        return {"PREFECT_API_URL": f"{self.prefect}/api", "MLFLOW_TRACKING_URI": self.mlflow}


def up(
    file: Path,
    host: str,
    gpus: int,
    prefect_database: str | None,
    mlflow_database: str | None,
) -> None:
    """Run everything until Ctrl-C or SIGTERM.

    Args:
        file: pipelines.yaml.
        host: where both servers listen.
        gpus: how many a worker has.
        prefect_database: SQLAlchemy URL of Prefect's database; None: SQLite in GRAFT_HOME.
        mlflow_database: the same of MLflow's.

    Raises:
        ConfigError: this GRAFT_HOME is up already.
        GraftError: a service does not start, or ends again and again.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # a script may have had one of them ignored
        signal.signal(number, signal.default_int_handler)
    with only_one(), ExitStack() as running:
        servers: list[Service] = []
        workers: list[Service] = []
        running.callback(stop, servers)
        running.callback(stop, workers)  # first of all: they report to the servers
        addresses = Addresses(address(host, PREFECT_PORT), address(host, MLFLOW_PORT))
        wanted = all_workers(addresses, gpus)
        servers += [
            prefect_server(addresses, host, prefect_database),
            mlflow_server(addresses, host, mlflow_database),
        ]
        servers[0].start()
        migrate(servers[1])
        servers[1].start()
        wait(servers[0], f"{addresses.prefect}/api/health")
        wait(servers[1], f"{addresses.mlflow}/health")
        deploy(file, addresses)
        workers += wanted
        for worker in workers:
            worker.start()
        tell(addresses)
        watch(servers, workers, f"{addresses.prefect}/api/health")


@contextmanager
def only_one() -> Iterator[None]:
    """One at a time in a GRAFT_HOME.

    Raises:
        ConfigError: it is up.
    """
    store.home().mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(store.home() / "up.lock", timeout=0):
            yield
    except Timeout as error:
        raise ConfigError(f"{store.home()}: graft up runs here already") from error


def stop(services: Sequence[Service]) -> None:
    """End them and what they started, by force after `GRACE`."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a second Ctrl-C must not leave some behind
        signal.signal(number, signal.SIG_IGN)
    for service in services:
        service.signal(signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline and not all(one.ended() for one in services):
        time.sleep(0.1)
    for service in services:
        service.signal(signal.SIGKILL)
        if service.process is not None:
            service.process.wait()


def address(host: str, wanted: int) -> str:
    """The wanted port if nobody listens there, else one that is free."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            reached = LOOPBACK if host == ALL else host
            return f"http://{reached}:{probe.getsockname()[1]}"
    raise ConfigError(f"--host {host}: nothing can listen there")


def prefect_server(addresses: Addresses, host: str, database: str | None) -> Service:
    """The API, its services and the UI."""
    port = addresses.prefect.rpartition(":")[2]
    seen = f"http://{socket.gethostname()}:{port}" if host == ALL else addresses.prefect
    settings = {
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES,
        "PREFECT_SERVER_UI_API_URL": f"{seen}/api",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
    }
    prefect: tuple[str, ...] = ("prefect",)
    if database:
        settings["PREFECT_API_DATABASE_CONNECTION_URL"] = database
    if not database or database.startswith("sqlite"):
        prefect = (Path(sys.executable).name, "-P", "-m", "flows.on_sqlite")
    command = (*prefect, "server", "start", "--host", host, "--port", port)
    return Service("prefect", command, settings)


def mlflow_server(addresses: Addresses, host: str, database: str | None) -> Service:
    """Tracking, registry and artifacts."""
    command = (
        *("mlflow", "server", "--host", host, "--port", addresses.mlflow.rpartition(":")[2]),
        *("--workers", "1"),
        *("--artifacts-destination", str(store.home() / "mlartifacts")),
    )
    settings = {
        **reachable(addresses.mlflow, host),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # not on the command line, where every user of the machine could read a password
        "MLFLOW_BACKEND_STORE_URI": database or f"sqlite:///{store.home() / 'mlflow.db'}",
    }
    return Service("mlflow", command, settings)


def reachable(url: str, host: str) -> dict[str, str]:
    """By which names MLflow may be asked for where others reach it, and its own pages may ask it:
    this machine's, beside what MLflow has without them; those that the environment has are left."""
    if host == LOOPBACK:
        return {}
    port = url.rpartition(":")[2]
    names = ["localhost", LOOPBACK, socket.gethostname(), *([outward()] if host == ALL else [host])]
    asked = [f"{name}:{port}" for name in dict.fromkeys(names)]
    settings = {
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join([*asked, *PRIVATE]),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{one}" for one in asked),
    }
    return {name: os.environ.get(name, value) for name, value in settings.items()}


def outward() -> str:
    """This machine's address in the network that it speaks to others by."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return LOOPBACK
        return str(probe.getsockname()[0])


def migrate(mlflow: Service) -> None:
    """Bring MLflow's database up to date, as Prefect's server does with its own.

    Raises:
        GraftError: it cannot be.
    """
    once = Service("migration", (Path(sys.executable).name, *MIGRATES), mlflow.environment)
    logger.info("MLflow's database: bringing it up to date …")
    once.start()
    assert once.process
    try:
        code = once.process.wait()
    except KeyboardInterrupt:  # tables half changed would be worse than a minute
        logger.info("stopping, once that is done …")
        once.process.wait()
        raise
    if code:
        raise GraftError(f"MLflow's database cannot be brought up to date; see {once.log}")


def all_workers(addresses: Addresses, gpus: int) -> list[Service]:
    """One of the pool `cpu`, and one of the pool `gpu` for so many GPUs each; without any it uses
    the CPU.

    Raises:
        ConfigError: some worker would have fewer.
    """
    settings = addresses.environment
    found = [Service("worker-cpu", ("graft", "worker", "cpu"), settings)]
    here = max(1, graphics())
    if here % gpus:
        raise ConfigError(f"--gpus {gpus} does not divide the {here} that are here")
    devices = [str(device) for device in range(here)]
    for first in range(0, len(devices), gpus):
        named = [word for one in devices[first : first + gpus] for word in ("--device", one)]
        command = ("graft", "worker", "gpu", *named)
        found.append(Service(f"worker-gpu-{first}", command, settings))
    return found


def graphics() -> int:
    """How many GPUs there are, without importing torch."""
    try:
        listed = subprocess.run(
            ("nvidia-smi", "--list-gpus"), capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    return len(listed.stdout.splitlines())


def deploy(file: Path, addresses: Addresses) -> None:
    """`graft deploy`, at this server.

    Raises:
        GraftError: it refuses; it has said why.
    """
    command = (str(BIN / "graft"), "deploy", "--file", str(file))
    done = subprocess.run(command, env={**os.environ, **addresses.environment}, check=False)
    if done.returncode:
        raise GraftError("nothing was deployed, and so nothing runs")


def wait(service: Service, health: str) -> None:
    """Until a server answers.

    Raises:
        GraftError: it ended, or does not answer in time.
    """
    logger.info("%s: starting …", service.name)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and not service.ended():
        if answers(health):
            return
        time.sleep(0.2)
    raise GraftError(f"{service.name} did not start; see {service.log}")


def tell(addresses: Addresses) -> None:
    """Where everything is."""
    console.print(f"Prefect UI: {addresses.prefect}", soft_wrap=True)
    console.print(f"MLflow UI:  {addresses.mlflow}", soft_wrap=True)
    for name, value in addresses.environment.items():
        console.print(f"export {name}={value}", soft_wrap=True)
    console.print(f"Logs are in {store.home() / 'logs'}. Ctrl-C ends everything.", soft_wrap=True)


def watch(servers: Sequence[Service], workers: Sequence[Service], health: str) -> None:
    """Start again what ends, a worker once Prefect's server answers, until interrupted.

    Raises:
        GraftError: something ends again and again, or the server answers no more.
    """
    since: float | None = None
    try:
        while True:
            time.sleep(1)
            for server in servers:
                if server.ended():
                    server.restart()
            gone = [worker for worker in workers if worker.ended()]
            if not gone or answers(health):
                since = None
                for worker in gone:
                    worker.restart()
            elif since is None:
                since = time.monotonic()
                logger.warning("%s ended, and waits for Prefect's server", gone[0].name)
            elif time.monotonic() - since > PATIENCE:
                raise GraftError(f"Prefect's server does not answer; see {servers[0].log}")
    except KeyboardInterrupt:
        logger.info("stopping …")


def answers(health: str) -> bool:
    """Whether a server is there."""
    try:
        with urllib.request.urlopen(health, timeout=5):
            return True
    except (OSError, HTTPException):
        return False
