# Every task that a person or CI runs. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
UV_VERSION := 0.13.9
STAMP := $(VENV)/.synced
# The measured programs share the tests' servers and the peers' meter.
BENCH := PYTHONPATH=tests:bench/peers $(BIN)/python
WORKSPACE := pyproject.toml uv.lock $(wildcard */pyproject.toml)
# Where it is set, as in many containers, each process that a test starts compiles a thousand modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo check test bench soak chaos generate clean

help: ## list the tasks
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## make .venv and install the locked packages into it

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "troupe needs Python 3.11 or newer; $(PYTHON) is not one. Name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	  || { echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(STAMP): $(UV) $(WORKSPACE)
	@VIRTUAL_ENV= UV_PROJECT_ENVIRONMENT=$(VENV) $(UV) sync --locked --quiet --compile-bytecode --python $(BIN)/python
	@touch $@

demo: setup ## one fleet, one question, one answer, one ledger: nothing else needed
	@$(BIN)/python -m troupe.cli.demo

check: setup ## ruff, mypy, import-linter, buf, generated code and pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint
	$(BIN)/python protos/generate.py --check
	$(BIN)/python docs/generate.py --check

test: setup ## all tests, in three processes (JOBS=)
	$(BIN)/pytest -n $(or $(JOBS),3) --dist loadfile --no-loadscope-reorder

bench: setup ## benchmarks beside their peers; one: make bench B=broker (ROUNDS=, SECONDS=)
	$(BENCH) -m bench $(B) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SECONDS),--seconds $(SECONDS))

soak: setup ## a million messages with flat memory (MESSAGES=, SESSION=)
	$(BENCH) -m bench.soak $(if $(MESSAGES),--messages $(MESSAGES)) $(if $(SESSION),--session $(SESSION))

chaos: setup ## kill everything at random, lose and repeat nothing (SECONDS=, SEED=, FLEET=servers|embedded, SESSIONS=, PACE=)
	PYTHONPATH=tests $(BIN)/python -m fault.chaos $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED)) \
	  $(if $(FLEET),--fleet $(FLEET)) $(if $(SESSIONS),--sessions $(SESSIONS)) $(if $(PACE),--pace $(PACE))

generate: setup ## Python code from protos/, reference pages from the code
	$(BIN)/python protos/generate.py
	$(BIN)/python docs/generate.py

clean: ## remove what the tasks made
	rm -rf $(VENV) bench/peers/*/.venv bench/results .troupe .mypy_cache .ruff_cache .pytest_cache .hypothesis
