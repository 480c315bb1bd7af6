"""Make the bucket that MLflow's artifacts go to, unless it is there: bucket.py NAME."""

from __future__ import annotations

import sys
import time

import boto3
from botocore.exceptions import BotoCoreError, ClientError

MINUTES = 2


def main(name: str) -> None:
    """Try until the store takes it: it answers a little before it can write."""
    store = boto3.client("s3")  # its address and keys: AWS_* in the environment
    deadline = time.monotonic() + MINUTES * 60
    while True:
        try:
            if name not in {bucket["Name"] for bucket in store.list_buckets()["Buckets"]}:
                store.create_bucket(Bucket=name)
            return
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > deadline:
                sys.exit(f"bucket {name}: {error}")
            time.sleep(2)


if __name__ == "__main__":
    main(sys.argv[1])
