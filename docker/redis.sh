#!/bin/sh
# Redis reads its password from its standard input, so that it is neither an argument nor a variable.
# What Prefect has not handled yet is on disk within a second, and nothing is dropped for want of memory.
set -eu
exec redis-server - --appendonly yes --maxmemory-policy noeviction "$@" <<CONF
requirepass $(cat "${SECRETS:-/run/secrets}/redis_password")
CONF
