#!/bin/sh
# Makes what compose.yaml reads and the repository does not hold: docker/.env, docker/secrets/ and
# docker/project/. What is there already is left as it is.
set -eu
cd "$(dirname "$0")"

[ -e .env ] || cp .env.example .env
mkdir -p project secrets
[ -e project/pipelines.yaml ] || cp ../pipelines.yaml project/

# Containers read the files as users of their own, so the files are open and the folder is closed.
chmod 700 secrets
for name in postgres_password prefect_database_password mlflow_database_password redis_password \
    mlflow_password mlflow_secret_key s3_access_key s3_secret_key; do
    [ -s "secrets/$name" ] || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"secrets/$name"
done
[ -s secrets/prefect_auth ] ||
    printf 'graft:%s' "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" >secrets/prefect_auth
chmod 444 secrets/*
echo "Ready: docker compose --file docker/compose.yaml build, then up --detach"
