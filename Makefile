# Everything that is done with this checkout; `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
PORT ?= 5000
JOBS ?= 2
BIN := $(VENV)/bin

# No tool here reports home, and none asks questions.
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export GRADIO_ANALYTICS_ENABLED := False
export ORT_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Local state of Prefect stays in the checkout.
export PREFECT_HOME ?= $(CURDIR)/.prefect
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help env repro flow mlflow test check lint format lock hooks clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1|/' | awk -F'|' '{printf "  make %-8s %s\n", $$1, $$2}'

# The environment is current when its stamp holds the checksum of what it was made from.
env: ## create or renew the environment in .venv from requirements.lock (nothing to do if it is current)
	@want="$$(cat requirements.lock pyproject.toml | cksum)"; \
	if [[ -x $(BIN)/facegen && "$$(cat $(VENV)/.facegen-env 2>/dev/null)" == "$$want" ]]; then exit 0; fi; \
	if [[ ! -x $(BIN)/python ]]; then \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo "make: $(PYTHON) is not Python 3.11 or newer; name one with PYTHON=, as in: make repro PYTHON=python3.11" >&2; exit 2; }; \
	  echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); \
	fi; \
	echo "installing requirements.lock (some minutes and about 6 GB the first time)"; \
	$(BIN)/python -m pip install -qq --no-deps -r requirements.lock; \
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .; \
	echo "$$want" > $(VENV)/.facegen-env

repro: env ## run every stage whose inputs changed, with progress and the seconds of each stage
	@$(BIN)/python -m pipelines.repro

flow: env ## run the same stages through Prefect (with its server where PREFECT_API_URL names one)
	@$(BIN)/python -m pipelines.flow

mlflow: env ## serve the runs' pages on http://127.0.0.1:$(PORT)
	@mkdir -p .mlflow
	@$(BIN)/mlflow server --workers 1 --backend-store-uri sqlite:///$(CURDIR)/.mlflow/mlflow.db --host 127.0.0.1 --port $(PORT)

test: env ## run the tests (JOBS processes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal

lint: env ## check format, style, types and the layers of imports
	@$(BIN)/ruff format --check --quiet . || { echo "make: run make format" >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/python -m pytest -q tests/test_architecture.py

check: lint test ## everything that CI and the hooks check

format: env ## put the code into its format
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

lock: ## write requirements.lock anew: the newest versions that pyproject.toml allows (CONSTRAINTS=FILE holds some back)
	@[[ -x $(BIN)/python ]] || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --dry-run --ignore-installed -qq --report $(VENV)/lock.json \
	  $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e ".[dev]"
	@$(BIN)/python .ci/lock.py < $(VENV)/lock.json

hooks: env ## install the git hooks: lint before a commit, tests before a push
	@$(BIN)/pre-commit install --hook-type pre-commit --hook-type pre-push

clean: ## remove caches, build results and unfinished runs; data, results, tracking and the environment stay
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .runs .prefect
	@find facegen pipelines tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
