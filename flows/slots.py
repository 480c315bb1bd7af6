"""One job a GPU: whoever learns holds the slots of its worker's devices for as long as it does.

`graft worker` names them in GRAFT_SLOTS, gpu:HOST:DEVICE each, and makes them at the server, where
they are Prefect's global concurrency limits. A slot whose holder died is free again a lease later.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency

from tasks.progress import logger

VARIABLE = "GRAFT_SLOTS"
LEASE = 60.0
"""Seconds; renewed while the holder lives."""


def create(names: Sequence[str]) -> None:
    """Make the slots that the server does not have yet."""
    with get_client(sync_client=True) as client:
        for name in names:
            client.upsert_global_concurrency_limit_by_name(name, 1)


@contextmanager
def held() -> Iterator[None]:
    """Wait for this worker's slots, hold them inside; outside a worker there are none.

    Raises:
        ConcurrencySlotAcquisitionError: the server does not have such a slot.
    """
    names = [name for name in os.environ.get(VARIABLE, "").split(",") if name]
    if not names:
        yield
        return
    logger.info("waiting for %s …", " and ".join(names))
    with concurrency(
        names,
        lease_duration=LEASE,
        strict=True,
        raise_on_lease_renewal_failure=False,  # hours of learning outlive a server that is away
    ):
        yield
