"""Thin wiring: the Prefect flows, and the `graft` command."""
