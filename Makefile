# The two commands of the README: `make train` and `make test`. Each does all its own set-up.

PYTHON ?= python3
VENV := .venv
FAMILY := .cache/family
CONFIG ?= configs/quickstart.yaml

.PHONY: help setup family train test bench lint clean

help:
	@echo "make train    set up, train the embedded model family (ARGS='key=value ...' overrides)"
	@echo "make test     set up and run all tests (ARGS='-k name' narrows them, '-n 0' is one process)"
	@echo "make bench    run the benchmarks, write benchmarks.json (ARGS='memory' chooses)"
	@echo "make setup    only make $(VENV)"
	@echo "make family   build the embedded family from scratch in $(FAMILY) (the package carries it ready)"
	@echo "make lint     ruff"
	@echo "make clean    remove $(VENV) and caches; keeps outputs/"

setup: $(VENV)/.ready

$(VENV)/.ready: requirements/cpu.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; choose one with: make PYTHON=python3.11"; exit 1; }
	@echo "setting up $(VENV), once"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python requirements/install.py requirements/cpu.lock || \
		{ echo "The pinned packages did not install. If torch's +cpu build was not found, name PyTorch's CPU wheel index" \
		  "in PIP_EXTRA_INDEX_URL (pytorch.org shows it under Get Started, pip, CPU)."; exit 1; }
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

family: setup
	@$(VENV)/bin/s2l family build --to $(FAMILY)

train: setup
	@$(VENV)/bin/s2l train $(CONFIG) $(ARGS)

test: setup
	@$(VENV)/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

bench: setup
	@$(VENV)/bin/python -m tests.benchmarks $(ARGS)

lint: setup
	@$(VENV)/bin/python -m pip install --quiet ruff==0.17.6
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

clean:
	rm -rf $(VENV) .cache build *.egg-info .pytest_cache .ruff_cache
