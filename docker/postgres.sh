#!/bin/sh
# Run once, by the image's own entrypoint, when the volume is empty: a user and its databases for each
# server, none of whom can read the other's. psql quotes the passwords, which come from secret files.
set -eu
secrets="${SECRETS:-/run/secrets}"

psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    --set prefect="$(cat "$secrets/prefect_database_password")" \
    --set mlflow="$(cat "$secrets/mlflow_database_password")" <<'SQL'
CREATE ROLE prefect LOGIN PASSWORD :'prefect';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow';
CREATE DATABASE prefect OWNER prefect;
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_auth OWNER mlflow;
REVOKE ALL ON DATABASE prefect, mlflow, mlflow_auth FROM PUBLIC;
SQL
