# `make demo` and `make test` need Python 3.11+ and set up everything else that needs no root.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

DURATION ?=
SEED ?= 1
SCENARIO ?= drift
TESTS ?= tests
JOBS ?= 2
BENCH ?=

.PHONY: help demo test bench lint lock dashboards clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: $(STAMP) ## a model's traffic with drift setting in: DURATION=60 SEED=1 SCENARIO=none|drift|quality
	$(BIN)/stream-monitor demo --seed $(SEED) --scenario $(SCENARIO) $(if $(DURATION),--duration $(DURATION))

test: $(STAMP) ## all tests and checks; names the system packages that are missing
	@$(BIN)/python tests/needs.py
	@$(MAKE) --no-print-directory lint
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(TESTS)

bench: $(STAMP) ## ratios against named baselines into docs/performance.md: BENCH="kafka memory" for some
	$(BIN)/python -m tests.bench $(BENCH)

lint: $(STAMP) ## style and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy docs/generate.py
	MYPYPATH=grafana $(BIN)/mypy grafana/generate.py

lock: ## resolve requirements.lock anew (needs uv)
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 \
		--generate-hashes --no-annotate --no-header --output-file requirements.lock

dashboards: $(STAMP) ## generate the Grafana dashboards anew
	$(BIN)/python grafana/generate.py

clean: ## remove the environment and caches
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis demo-output
