"""A run for tests/test_warm.py: says what it is, and then does what PREFECT__RUN says."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any


def end(*_: Any) -> None:
    """Once it is told to."""
    sys.exit(5)


if __name__ == "__main__":
    told = {"process": os.getpid(), "folder": os.getcwd(), "arguments": sys.argv[1:]}
    told["run"] = os.environ["PREFECT__RUN"]
    told["warm"] = "prefect" in sys.modules
    if told["run"] == "waits":
        signal.signal(signal.SIGTERM, end)
    print(json.dumps(told), flush=True)
    if told["run"] == "waits":
        time.sleep(120)
    if told["run"] == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit({"ends": 0, "fails": 3}[told["run"]])
