"""What runs import, for a process that has time to import it before."""

from __future__ import annotations

EVERY_RUN = ("flows.deploy", "prefect.flow_engine", "mlflow.pyfunc", "pyarrow.parquet")
DATA = ("great_expectations.checkpoint", "scipy.stats", "matplotlib.figure")
MODELS = ("transformers.modeling_utils", "transformers.modeling_layers", "tasks.learning.serving")
