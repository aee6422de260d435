# Two commands matter: `make pas` runs the main job, `make test` runs the tests. Both set up .venv first if needed.
PYTHON ?= $(firstword $(foreach v,python3.11 python3.12 python3.13 python3,$(shell command -v $(v) 2>/dev/null)))
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.set-up
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help setup pas sweep test test-cluster lint types check bench schema lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP)  ## create .venv and install the pinned packages

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
	  echo 'Python 3.11, 3.12 or 3.13 is needed: 3.14 has a standard package named "compression", which our folder of that name would meet. Say which to use: make PYTHON=python3.12 …' >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,hub,nni]'
	@touch $@

pas: setup  ## shrink a small SlowFast on a small data set made on the spot (ARGS="--iterations 3" passes through)
	$(BIN)/orchestrate pas --backbone slowfast $(ARGS)

sweep: setup  ## prune a small ReID network by every pruner at every sparsity (ARGS passes through)
	$(BIN)/orchestrate sweep prune --model reid $(ARGS)

test: setup  ## run the test suite, on two processes (ARGS passes through)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-cluster: setup  ## run the slow tests: real Ray heads and nodes, killed processes (ARGS passes through)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster $(ARGS)

lint: setup  ## ruff, rules and format
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: setup  ## mypy, strict
	$(BIN)/mypy

check: lint types test  ## everything that CI runs

bench: setup  ## wall time of the search against two bare PyTorch processes
	$(BIN)/python -m benchmarks.search_overhead $(ARGS)

schema: setup  ## write configs/schema.json from configs/schema.py, and handoff.schema.json from its manifest.py
	$(BIN)/orchestrate schema > configs/schema.json.tmp && mv configs/schema.json.tmp configs/schema.json
	cd orchestrator/handoff && ../../$(BIN)/python -c 'from orchestrator.handoff.manifest import json_schema; print(json_schema(), end="")' > handoff.schema.json.tmp && mv handoff.schema.json.tmp handoff.schema.json

lock:  ## renew constraints.txt from a fresh environment
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --editable '.[dev,hub,nni]'
	{ head -2 constraints.txt; $(VENV)-lock/bin/python -m pip freeze --exclude-editable; } > constraints.txt.tmp
	mv constraints.txt.tmp constraints.txt && rm -rf $(VENV)-lock

clean:  ## remove .venv and caches (never runs/)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
