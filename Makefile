# make demo       the whole job on the built-in music, from nothing to a table
# make test       lint, types and all tests but the slow ones
# make test-slow  the tests that train a network for minutes, or run commands many times
# make bench      every stage's speed against its baseline: benchmarks/RESULTS.md
# All create .venv where it is missing, install into it, and reuse what is there.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Installed before the rest, so that openunmix does not pull in the newest PyTorch with
# 5 GB of CUDA. BUILD.md says how to get the CPU build. TORCH= leaves PyTorch as it is.
TORCH ?= torch==2.13.0
# Processes of the test run; each takes up to 3 GB of memory.
TEST_PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal --durations=20

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: demo test test-slow lint bench clean

$(STAMP): setup.py pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: $(PYTHON) not found; install Python 3.11 or say PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	test -z "$(TORCH)" || $(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable '.[all,dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m cola_msa.demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(PYTEST) -m "not slow"

test-slow: $(STAMP)
	$(PYTEST) -m slow

bench: $(STAMP)
	$(BIN)/python benchmarks/run_all.py

clean:
	rm -rf $(VENV) build dist *.egg-info
