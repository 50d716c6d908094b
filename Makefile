# Every target makes its own virtual environment in .venv the first time, and again when what it depends on changes.
# Choose another interpreter with `make PYTHON=/path/to/python3 ...` (after `make clean`).

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help cluster soak test test-all check format bench bench-quick simulate simulate-cluster fuzz mutants dist wheel-check clean

# The newest supported Python that really runs: a name on PATH may be a shim with nothing behind it.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	"$$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo "$$python" && break; done)
RUN := .venv/bin/python
READY := .venv/.ready
ARGS ?=
SEEDS ?= 100

# client_replies links the packages, so that they are checked under the name they are installed with.
CHECKED := client_replies $(wildcard examples tests benchmarks tools)

help: ## say what can be made
	@grep -hE '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{ printf "make %-16s %s\n", $$1, $$2 }'

$(READY): setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or later with venv and ensurepip was found; name one: make PYTHON=..." >&2; exit 1; }
	@echo "setting up .venv (once) ..."
	@$(RUN) -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --copies --clear .venv
	@$(RUN) -m pip install --disable-pip-version-check --no-input --no-compile --editable '.[dev]' \
		>.venv/setup.log 2>&1 || { cat .venv/setup.log >&2; exit 1; }
	@touch $@

cluster: $(READY) ## run three replicas over a file of transfers, damage and kill them, and judge the result
	@$(RUN) -m examples.ledger run $(ARGS)

soak: $(READY) ## ten minutes of random harm to a cluster at work, and judge the result (ARGS="--seed 2")
	@timeout --kill-after=10 600 $(RUN) -m examples.ledger soak $(ARGS)

# Tests run in several processes, two per core (see tests/conftest.py); each test file stays in one of them.
# A chosen part runs in one, which starts at once, and in which --pdb and -s work; `ARGS="-n 4 tests/storage"` is heeded.
PYTEST := $(RUN) -m pytest --dist loadfile --no-loadscope-reorder

test: $(READY) ## run the tests that are not slow, in three minutes (ARGS="-k name" to choose, slow ones too)
	@$(PYTEST) $(or $(ARGS),-n auto -m "not slow")

test-all: $(READY) ## run every test
	@$(PYTEST) -n auto $(ARGS)

check: $(READY) ## format, lint and strict types, without changing anything
	@$(RUN) -m ruff format --check --quiet . || { $(RUN) -m ruff format --diff --quiet . ; exit 1; }
	@$(RUN) -m ruff check --quiet .
	@$(RUN) -m mypy $(CHECKED)

format: $(READY) ## let ruff rewrite the files
	@$(RUN) -m ruff format --quiet .
	@$(RUN) -m ruff check --quiet --fix .

bench: $(READY) ## measure against the disk's own limit and against peers
	@$(RUN) -m benchmarks --json build/benchmarks.json --compare benchmarks/results/accepted.json $(ARGS)

bench-quick: $(READY) ## each contestant once, for a moment: to see that all works
	@$(RUN) -m benchmarks --quick $(ARGS)

simulate: $(READY) ## run the deterministic simulation (SEEDS=100)
	@$(RUN) -m tests.simulation --seeds $(SEEDS) $(ARGS)

simulate-cluster: $(READY) ## the same for the whole cluster: replication, view changes, state sync (SEEDS=100)
	@$(RUN) -m tests.simulation.cluster --seeds $(SEEDS) $(ARGS)

fuzz: $(READY) ## attack the front door and its decoder for five minutes (ARGS="--minutes 60")
	@$(RUN) -m tests.fuzz --minutes 5 $(ARGS)

mutants: $(READY) ## measure which changes of the code the unit tests notice (ARGS="--sample 0 --only leases")
	@$(RUN) -m tools.mutants $(ARGS)

dist: $(READY) ## build the sdist, and the wheel from it
	@rm -rf build dist *.egg-info
	@$(RUN) -m build --outdir dist . >.venv/dist.log 2>&1 || { cat .venv/dist.log >&2; exit 1; }
	@ls dist/*

wheel-check: dist ## run the README's example on the installed wheel, with the oldest and the newest Python here
	@$(RUN) tools/wheel_check.py dist/*.whl README.md

clean: ## remove everything that make made
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
