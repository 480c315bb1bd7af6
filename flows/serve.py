"""`graft serve`: a server on the champion, and a thread that looks for a new one."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import socket
import sys
import threading
import time

import uvicorn

from flows.console import console
from flows.service import WAITING, Service, application
from tasks.champion import Precision
from tasks.errors import ConfigError
from tasks.progress import logger
from tasks.served import Log
from tasks.tracking import without_credentials

SECONDS = 3.0
"""Between two looks at the registry."""
AFTER_FAILURE = 30.0
"""Until the next one: loading a model that cannot be loaded takes its time, too. Twice as long
after each failure more, up to five minutes."""
LONGEST = 300.0
GRACE = 25
"""Seconds in which requests must end once the server is told to; Kubernetes gives 30."""
LAST = 2.0
"""Seconds in which requests that are to be kept are written then."""
KEPT = 75
"""Seconds that an idle connection is kept: longer than a proxy before it keeps one (nginx: 60)."""


def serve(name: str, host: str, port: int, precision: Precision, *, keep: bool = False) -> None:
    """Serve until SIGINT or SIGTERM, which end what was begun; then end the process.

    Args:
        name: the model.
        host: where to listen.
        port: 0: one that is free.
        precision: see `tasks/champion.py`.
        keep: whether requests that say so are kept, see `tasks/served.py`.

    Raises:
        ConfigError: nothing can listen there.
        SourceUnavailable: no such model, no champion, or it cannot be loaded.
        TrackingError: MLflow does not answer.
    """
    for library in ("asyncio", "mlflow", "uvicorn"):  # what they have to say is told otherwise
        logging.getLogger(library).setLevel(logging.CRITICAL)
    listener = listen(host, port)
    log = Log(name) if keep else None
    service = Service(name, precision, log)
    config = uvicorn.Config(
        application(service),
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        backlog=WAITING,
        server_header=False,
        timeout_keep_alive=KEPT,
        timeout_graceful_shutdown=GRACE,
    )
    server = uvicorn.Server(config)
    for number in (signal.SIGINT, signal.SIGTERM):  # raised again by uvicorn when it has ended
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    follower = Follower(service, server, address(listener))
    threading.Thread(target=follower.run, daemon=True).start()
    server.run(sockets=[listener])
    if log:
        log.close(LAST)
    if follower.refused:
        raise follower.refused
    sys.stdout.flush()
    os._exit(0)  # neither a prediction beyond its grace nor a model half loaded is waited for


class Follower:
    """Has a service serve the champion, as soon as there is another one."""

    def __init__(self, service: Service, server: uvicorn.Server, url: str) -> None:
        """Nothing is looked for before `run`."""
        self.service, self.server, self.url = service, server, url
        self.refused: Exception | None = None
        """Why nothing could be served at all."""

    def run(self) -> None:
        """Look now and, if there is a champion, every few seconds from then on."""
        try:
            self.service.look()
            self.announce()
        except Exception as error:  # the process ends with it, whatever it is
            self.refused, self.server.should_exit = error, True
            return
        last, pause = "", SECONDS
        while True:
            time.sleep(pause)
            last = self.look(last)
            pause = min(max(AFTER_FAILURE, 2 * pause), LONGEST) if last else SECONDS

    def look(self, last: str) -> str:
        """Look once. What is wrong, "" for nothing, is told if it is not what was `last` wrong."""
        before = self.service.champion
        assert before is not None
        try:
            if new := self.service.look():
                logger.info("%s: version %s is served now", new.name, new.version)
        except Exception as error:  # whatever it is, what is served goes on
            wrong = " ".join(without_credentials(str(error)).split())
            if wrong != last:
                logger.warning("%s; version %s is served as before", wrong, before.version)
            return wrong
        if last and not new:
            logger.info("%s: version %s is the champion, and served", before.name, before.version)
        return ""

    def announce(self) -> None:
        """Where it is served, and how it is asked."""
        champion = self.service.champion
        assert champion is not None
        row = dict.fromkeys(champion.columns, "Superb.")
        body = shlex.quote(json.dumps({"dataframe_records": [row]}))
        kind = "'content-type: application/json'"
        for line in (
            f"{champion.name} version {champion.version} is served at {self.url}",
            f"curl {self.url}/invocations -H {kind} -d {body}",
        ):
            console.print(line, markup=False, soft_wrap=True)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ConfigError: the port is taken or not allowed, or the host is not one of this machine's.
    """
    if not host:
        raise ConfigError("--host: name an address to listen at; 0.0.0.0 are all of this machine's")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
        # asyncio does not see that it is TCP; without this a small answer takes 40 ms more.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, UnicodeError) as error:
        reason = str(getattr(error, "strerror", error)).partition(" (")[0]
        raise ConfigError(
            f"graft serve: nothing can listen at {host}, port {port} ({reason}); "
            "see --host and --port"
        ) from error


def address(listener: socket.socket) -> str:
    """http://127.0.0.1:5001"""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
