"""Exit with 0 if a service of compose.yaml is well, and else with 1 and why.

healthy.py http://127.0.0.1:5000/health   it answers
healthy.py services                       this container's services reported to Redis lately
healthy.py worker cpu                     a worker of this work pool reported to Prefect lately
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import time
import urllib.request

LATELY = 60.0
"""Seconds."""


def answers(url: str) -> bool:
    """Whether it does; what does not raises."""
    with urllib.request.urlopen(url, timeout=8):
        return True


def services() -> bool:
    """Prefect runs them in a docket worker, named after its host, that reports every two seconds.

    The docket's name is its `prefect server services start`'s; API servers have one of their own.
    """
    from redis import Redis

    docket = Redis.from_url(os.environ["PREFECT_SERVER_DOCKET_URL"], decode_responses=True)
    lately = docket.zrangebyscore("prefect:workers", time.time() - LATELY, "+inf")
    return any(name.startswith(f"{socket.gethostname()}#") for name in lately)


def worker(pool: str) -> bool:
    """Prefect calls a worker online that reported within three of its intervals."""
    url = f"{os.environ['PREFECT_API_URL']}/work_pools/{pool}/workers/filter"
    headers = {"Content-Type": "application/json"}
    if login := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    request = urllib.request.Request(url, b"{}", headers)
    with urllib.request.urlopen(request, timeout=8) as answer:
        return any(one["status"] == "ONLINE" for one in json.load(answer))


def main(what: str, *rest: str) -> None:
    """Ask, and exit."""
    checks = {"services": services, "worker": worker}
    try:
        well = checks[what](*rest) if what in checks else answers(what)
    except Exception as error:
        sys.exit(f"{what}: {error}")
    sys.exit(0 if well else f"{' '.join((what, *rest))}: no sign of life")


if __name__ == "__main__":
    main(*sys.argv[1:])
