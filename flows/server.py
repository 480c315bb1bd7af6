"""A Prefect server for the length of one command, where PREFECT_API_URL names none.

Prefect would start the same server by itself, but only once it has imported all of it into this
process too. Started first, it comes up while this process imports what it needs.
"""

from __future__ import annotations

import atexit
import importlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flows import imports
from tasks.errors import GraftError, Unreachable
from tasks.tracking import without_credentials

TIMEOUT = 120.0
TEMPORARY = "GRAFT_TEMPORARY_SERVER"
"""Set while the server is one that ends with this command."""
EPHEMERAL = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}
"""What Prefect 3.8 sets for a server of its own that lives no longer than its client."""


@contextmanager
def prefect_server() -> Iterator[Callable[[], None]]:
    """Start a server on loopback and point Prefect at it; gives a function that waits for it.

    Must be entered before Prefect is imported, since Prefect reads its settings then. The server
    ends with this process rather than with the context: Prefect sends its last logs at exit.
    """
    if "PREFECT_API_URL" in os.environ:
        yield lambda: None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.local_api", str(port)],
        env={**os.environ, **EPHEMERAL},
        stdin=subprocess.PIPE,  # never written to; see local_api.py
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for this process, which has its state to report yet
    )
    atexit.register(stop, process)  # before Prefect registers its own, and so called after them
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    os.environ[TEMPORARY] = "1"
    try:
        yield lambda: wait(process, port)
    finally:
        del os.environ["PREFECT_API_URL"], os.environ[TEMPORARY]


def check_answers(url: str) -> None:
    """A server that is not there is named before anything else fails for it.

    Raises:
        Unreachable: nothing answers.
    """
    try:
        urllib.request.urlopen(f"{url}/health", timeout=TIMEOUT).close()
    except urllib.error.HTTPError:
        return  # whatever it has to say, it is there
    except (OSError, ValueError) as error:
        told = f"{getattr(error, 'reason', error)}"
        raise Unreachable(f"PREFECT_API_URL {without_credentials(url)}: {told}") from error


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server, by force after ten seconds."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait(process: subprocess.Popen[bytes], port: int) -> None:
    """Until the server answers; what runs need is imported meanwhile.

    Raises:
        GraftError: it ended, or did not answer in time.
    """
    deadline = time.monotonic() + TIMEOUT
    ahead = iter(imports.EVERY_RUN)
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if module := next(ahead, None):
                importlib.import_module(module)
            else:
                time.sleep(0.1)
    raise GraftError(
        f"Prefect's local server did not start (home {os.environ.get('PREFECT_HOME')}); "
        "see `prefect server start`, or set PREFECT_API_URL"
    )
