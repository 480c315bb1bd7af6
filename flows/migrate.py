"""Bring MLflow's database, of MLFLOW_BACKEND_STORE_URI, to the tables of the MLflow installed.

MLflow's server refuses one that an older version left. `graft up` runs this first, once, and
docker/compose.yaml MLflow's own command; Prefect's server brings its database up itself.
"""

import os

from mlflow.cli import cli

if __name__ == "__main__":
    # not on a command line, where every user of the machine could read a password
    cli(["db", "upgrade", os.environ["MLFLOW_BACKEND_STORE_URI"]])
