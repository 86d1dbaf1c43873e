# Two commands: `make run` (a night through a real Airflow) and `make test`. Both set up .local/venv by themselves.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
# Not .venv: that is the Astro CLI's, which makes it with the Python of the Runtime.
VENV := .local/venv
BIN := $(CURDIR)/$(VENV)/bin
export PYTHONPATH := $(CURDIR)
export PYTHONUNBUFFERED := 1
# Where the embedded Postgres keeps its lock: the user's own folder, or ours.
export XDG_RUNTIME_DIR ?= $(CURDIR)/.local/runtime

.PHONY: help run test setup bench lint lock migrate sql notebook services env clean

export Q

help:
	@echo "make run     three nights through a real Airflow on this machine, then tips; ONCE=1 ends by itself"
	@echo "make test    lint, types, layers and all tests"
	@echo "make sql     DuckDB over what a run made; Q='FROM analysis.overdue' answers and ends"
	@echo "make notebook  its main pictures, in the browser"
	@echo "make bench   CPU and memory of every step for 1,000 users (USERS=n for more), of the store, of a tip"
	@echo "make lock    requirements.lock anew from requirements.txt (needs uv)"
	@echo "make services  Postgres, a local Todoist and settings for 'astro dev start --standalone'"
	@echo "make env     secrets and settings for 'astro dev start'"
	@echo "make clean   remove .local: the virtual environment, data, logs"

setup: $(VENV)/.ready
	@mkdir -p -m 700 "$(XDG_RUNTIME_DIR)"

$(VENV)/.ready: requirements.lock .ci/setup
	@PYTHON="$(PYTHON)" bash .ci/setup "$(VENV)"

run: setup
	@exec $(BIN)/python -m local

test: setup lint
ifdef ARGS
	@echo "== tests: $(ARGS)"
	@$(BIN)/python -m pytest --basetemp .local/tests $(ARGS)
else
	@echo "== tests, in two processes; then, alone, those of the request path, in which a second counts"
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --basetemp .local/tests --ignore tests/serving
	@$(BIN)/python -m pytest --basetemp .local/tests tests/serving
endif

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

# What the local run left, unless the environment says otherwise.
LOCAL := [ -n "$${DATA_ROOT:-}$${DATABASE_URL:-}" ] || [ ! -f .local/environment ] || { set -a; . .local/environment; set +a; }

sql notebook: export TMPDIR := $(CURDIR)/.local/tmp

sql: setup
	@mkdir -p "$$TMPDIR"; $(LOCAL); exec $(BIN)/python -m assets sql $(if $(Q),"$$Q")

notebook: setup
	@mkdir -p "$$TMPDIR"; $(LOCAL); exec $(BIN)/marimo edit sql/notebook.py

migrate: setup
	@$(BIN)/python -m contexts.migrate

lock:
	uv pip compile --universal --python-version 3.11 --quiet --no-header requirements.txt --group dev -o requirements.lock \
	  $(addprefix --no-emit-package ,$(shell sed -n 's/^# not locked: //p' requirements.txt))

services: setup
	@exec $(BIN)/python -m local.services

env:
	@$(PYTHON) local/dotenv.py

clean:
	rm -rf .local .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
