# Graft's commands; `make help` lists them. Everything runs from .venv, made from requirements.lock.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
PIPELINE ?= reviews
KEEP ?= --constraint requirements.lock
BIN := .venv/bin
STAMP := .venv/.installed
ALL_TESTS := $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help run test coverage unit lint format schema venv lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(STAMP) ## Run one pipeline of pipelines.yaml: make run PIPELINE=reviews
	$(BIN)/graft run $(PIPELINE)

test: $(STAMP) ## Run every test
	$(ALL_TESTS)

coverage: $(STAMP) ## Run every test and print what of the code they reach; takes 1.7 times as long
	$(ALL_TESTS) --cov --cov-report=term

unit: $(STAMP) ## Run the fast tests: no services, no real weights, no training to a score
	$(BIN)/pytest -m "not integration and not regression"

lint: $(STAMP) ## Check style, types and the Dockerfiles
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint docker/Dockerfile*

format: $(STAMP) ## Mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schema: $(STAMP) ## Write pipelines.schema.json, which editors check pipelines.yaml against
	$(BIN)/graft schema > pipelines.schema.json.new
	mv pipelines.schema.json.new pipelines.schema.json

venv: $(STAMP) ## Make .venv from requirements.lock

$(STAMP): requirements.lock pyproject.toml
	$(require_python)
	@echo "Making .venv from requirements.lock (5 to 10 minutes the first time) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install -qq --requirement requirements.lock
	@$(BIN)/pip install -qq --no-build-isolation --no-deps --editable .
	@touch $@
	@echo "Ready: $(BIN)/graft --help"

lock: ## Resolve pyproject.toml anew; keeps the pinned versions unless KEEP= is given
	$(require_python)
	@echo "Resolving in a fresh .venv-lock (5 to 10 minutes) ..."
	@$(PYTHON) -m venv --clear .venv-lock
	@.venv-lock/bin/pip install -qq $(KEEP) --upgrade setuptools wheel
	@.venv-lock/bin/pip install -qq $(KEEP) --editable '.[dev]'
	@.venv-lock/bin/pip check
	@{ grep '^#' requirements.lock; \
	   .venv-lock/bin/pip freeze --all --exclude pip --exclude-editable | sed 's/+[[:alnum:].]*$$//'; \
	 } > requirements.lock.new
	@mv requirements.lock.new requirements.lock
	@rm -rf .venv-lock

clean: ## Remove caches and coverage data; .venv and .graft stay
	rm -rf .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +

define require_python
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' 2>/dev/null || \
	{ echo "Graft needs Python 3.11.4 or newer; '$(PYTHON)' is not. Name one: make PYTHON=/path/to/python3 venv" >&2; exit 1; }
endef
