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


def compute() -> None:
    """With the threads of every library that has its own."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute
    import torch

    many = np.random.default_rng(0).random((400, 400))
    assert np.linalg.inv(many).shape == many.shape
    assert pa.compute.sum(pa.chunked_array([[1, 2], [3]])).as_py() == 6
    weights = torch.tensor(many, requires_grad=True)
    (weights @ weights).sum().backward()
    assert weights.grad is not None


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
    if told["run"] == "computes":
        compute()
    sys.exit({"ends": 0, "fails": 3, "computes": 0}[told["run"]])
