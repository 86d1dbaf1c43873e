# The two main targets are `make run` (simulated nights in a real Airflow) and `make test`; both set up .local/venv.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
# Not .venv, which the Astro CLI creates with the Runtime's Python.
VENV := .local/venv
# Relative, because the folder of the project may have blanks in its name.
BIN := $(VENV)/bin
export PYTHONPATH := $(CURDIR)
export PYTHONUNBUFFERED := 1
# Without bytecode every process, and Airflow has many, would compile our modules again.
unexport PYTHONDONTWRITEBYTECODE
# The folder for the lock of the embedded Postgres: the user's runtime folder, or one in .local.
export XDG_RUNTIME_DIR ?= $(CURDIR)/.local/runtime

.PHONY: help run cluster test test-pipeline test-serving setup bench faults lint lock migrate sql notebook services env clean

export Q
export HTML

help:
	@echo "make run       run nights in a real Airflow on this machine, then request tips; ONCE=1 exits, FRESH=1 begins again"
	@echo "make cluster   run the same nights with Celery: two workers, Redis, and all data in an S3 server; ONCE=1 exits at the end"
	@echo "make test      run linters, type checks, layer checks and all tests"
	@echo "make sql       open DuckDB on the results of a run; Q='FROM analysis.overdue' runs one query and exits, FORMAT=csv or json, DAYS=7"
	@echo "make notebook  open the notebook with the main charts in a browser; HTML=FILE writes them into one file"
	@echo "make bench     measure CPU and memory of every step for 1,000 users (USERS=n), of the store and of tip requests"
	@echo "make faults    break the pipeline and the service in some 130 ways, and print which promises held; ROWS=pattern, SEED=n"
	@echo "make lock      update requirements.lock from requirements.txt (needs uv)"
	@echo "make services  run Postgres and a local Todoist for 'astro dev start --standalone'"
	@echo "make env       write .env with new secrets for 'astro dev start'"
	@echo "make clean     remove .local: the virtual environment, data and logs"

setup: $(VENV)/.ready
	@mkdir -p -m 700 "$(XDG_RUNTIME_DIR)"

$(VENV)/.ready: requirements.lock .ci/setup
	@PYTHON="$(PYTHON)" bash .ci/setup "$(VENV)"

run: setup
	@exec $(BIN)/python -m local

cluster: setup
	@exec $(BIN)/python -m local --cluster

# Threads of several processes on few cores wait for each other by spinning: a small t-SNE took twenty times as long.
test: export OMP_NUM_THREADS ?= 1
test: setup
ifdef ARGS
	@echo "== tests: $(ARGS)"
	@$(BIN)/python -m pytest --basetemp .local/tests $(ARGS)
else
	@$(MAKE) --no-print-directory --jobs 2 test-pipeline lint
	@$(MAKE) --no-print-directory test-serving
endif

test-pipeline: setup
	@echo "== tests in three processes, beside the linters"
	@$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder -p no:schemathesis --basetemp .local/tests --ignore tests/serving

test-serving: setup
	@echo "== tests of the request path, which are sensitive to timing, without Airflow beside them"
	@$(BIN)/python -m pytest --numprocesses 4 --dist loadfile --basetemp .local/tests tests/serving

lint: setup
	@echo "== ruff, mypy, import-linter"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup
	@$(BIN)/python -m benchmarks
	@$(BIN)/python -m benchmarks.store
	@$(BIN)/python -m benchmarks.requests

faults: export SEED := $(SEED)
faults: export ROWS := $(ROWS)
faults: setup
	@exec $(BIN)/python -m tests.faults

# The environment of the last local run, unless DATA_ROOT or DATABASE_URL is set.
LOCAL := [ -n "$${DATA_ROOT:-}$${DATABASE_URL:-}" ] || [ ! -f .local/environment ] || { set -a; . .local/environment; set +a; }

sql notebook: export TMPDIR := $(CURDIR)/.local/tmp

sql: setup
	@mkdir -p "$$TMPDIR"; $(LOCAL); exec $(BIN)/python -m assets sql $(if $(FORMAT),--format $(FORMAT)) $(if $(DAYS),--days $(DAYS)) $(if $(Q),"$$Q")

notebook: setup
	@mkdir -p "$$TMPDIR"; $(LOCAL); exec $(BIN)/$(if $(HTML),python sql/export_notebook.py "$$HTML",marimo edit sql/notebook.py)

migrate: setup
	@$(BIN)/python -m contexts migrate

lock:
	uv pip compile --universal --python-version 3.11 --quiet --no-header requirements.txt --group dev -o requirements.lock \
	  $(addprefix --no-emit-package ,$(shell sed -n 's/^# not locked: //p' requirements.txt))

services: setup
	@exec $(BIN)/python -m local.services

env:
	@$(PYTHON) local/dotenv.py

clean:
	@echo "Removing .local (virtual environment, data of runs, logs), bytecode, and the caches of mypy, ruff, pytest, hypothesis and import-linter"
	@rm -rf .local .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -prune -exec rm -rf {} +
