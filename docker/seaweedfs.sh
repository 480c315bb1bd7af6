#!/bin/sh
# SeaweedFS takes the keys of its S3 API from a file of its own form, which is kept in memory.
# Only that API can be reached from other containers; its other parts ask for no password, and
# listen on this container's loopback.
set -eu
secrets="${SECRETS:-/run/secrets}"
umask 077
cat >"${TMPDIR:-/tmp}/s3.json" <<JSON
{"identities": [{"name": "mlflow", "actions": ["Admin", "Read", "Write", "List", "Tagging"],
  "credentials": [{"accessKey": "$(cat "$secrets/s3_access_key")",
                   "secretKey": "$(cat "$secrets/s3_secret_key")"}]}]}
JSON
exec weed server -dir=/data -ip=127.0.0.1 -ip.bind=127.0.0.1 -master.telemetry=false \
    -volume.preStopSeconds=1 -volume.max=0 -master.volumeSizeLimitMB=1024 -filer -s3 -s3.ip.bind=0.0.0.0 -s3.port=8333 \
    -s3.port.iceberg=0 -s3.port.lance=0 -s3.iam=false -s3.config="${TMPDIR:-/tmp}/s3.json" "$@"
