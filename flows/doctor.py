"""What `graft doctor` looks at."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import version

from tasks import provenance, store
from tasks.errors import TrackingError

SHOWN = ("prefect", "mlflow", "torch", "transformers", "datasets", "great-expectations", "pandas")


def findings() -> dict[str, str]:
    """Name -> finding, in the order to read them."""
    import torch

    from tasks.learning.loop import native_bfloat16
    from tasks.tracking import connect, tracking_uri, without_credentials

    existing = store.home()
    while not existing.exists():
        existing = existing.parent
    try:
        connect()
        tracking = f"{without_credentials(tracking_uri())}: answers"
    except (TrackingError, OSError) as error:
        tracking = str(error)
    return {
        "python": sys.version.split()[0],
        **{name: version(name) for name in SHOWN},
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "hardware": provenance.hardware(),
        "threads": str(torch.get_num_threads()),
        "bfloat16": "native" if native_bfloat16() else "not native: float32 is used",
        "GRAFT_HOME": str(store.home()),
        "writable": "yes" if os.access(existing, os.W_OK) else "no: set GRAFT_HOME",
        "disk free": f"{shutil.disk_usage(existing).free / 1e9:.0f} GB",
        "GRAFT_MIRROR": os.environ.get("GRAFT_MIRROR", "not set"),
        "PREFECT_API_URL": without_credentials(
            os.environ.get("PREFECT_API_URL", "not set: ephemeral server")
        ),
        "MLflow": tracking,
    }
