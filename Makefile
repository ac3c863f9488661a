# The two commands of the README: `make train` and `make test`. Each does all its own set-up.

PYTHON ?= python3
VENV := .venv
FAMILY := .cache/family
CONFIG ?= configs/quickstart.yaml
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
AUDIT := .cache/audit
LINT := $(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && \
	$(VENV)/bin/bandit -q -c pyproject.toml -r s2l_ray actors requirements setup.py

# Many images forbid Python to keep compiled modules. Every engine's process would then compile all of vLLM and torch again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup setup-dev family train check test test-long chaos audit bench docs clean

help:
	@echo "make train      set up, train the embedded model family (ARGS='key=value ...' overrides)"
	@echo "make test       set up, then the checks below and all tests (ARGS='-k name' narrows them, '-n 0' is one process)"
	@echo "make test-long  the tests that take longest: lost nodes, full disks, whole studies, manifests as isolated pods"
	@echo "make check      lint, types, and the tests that start no engine"
	@echo "make chaos      runs with 240 faults, compared with the same runs without (ARGS='--faults 20 --only bank'); an hour or two"
	@echo "make audit      ask PyPI's vulnerability service about every pinned package; needs the network"
	@echo "make bench      run the benchmarks, write benchmarks.json (ARGS='memory' chooses)"
	@echo "make docs       build the documentation in site/"
	@echo "make setup      only make $(VENV); setup-dev adds what checks, tests and documentation need"
	@echo "make family     build the embedded family from scratch in $(FAMILY) (the package carries it ready)"
	@echo "make clean      remove $(VENV), site/ and caches; keeps outputs/"

setup: $(VENV)/.ready

$(VENV)/.ready: requirements/cpu.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; choose one with: make PYTHON=python3.11"; exit 1; }
	@echo "setting up $(VENV), once"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python requirements/install.py requirements/cpu.lock || \
		{ echo "The pinned packages did not install. If torch's +cpu build was not found, name PyTorch's CPU wheel index" \
		  "in PIP_EXTRA_INDEX_URL (pytorch.org shows it under Get Started, pip, CPU)."; exit 1; }
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

setup-dev: $(VENV)/.ready-dev

$(VENV)/.ready-dev: $(VENV)/.ready requirements/dev.lock
	@$(VENV)/bin/python requirements/install.py requirements/dev.lock || \
		{ echo "The pinned packages of requirements/dev.lock did not install; see pip's message above."; exit 1; }
	@touch $@

family: setup
	@$(VENV)/bin/s2l family build --to $(FAMILY)

train: setup
	@$(VENV)/bin/s2l train $(CONFIG) $(ARGS)

# Types need one core for as long as the quick tests need the other.
check: setup-dev
	@$(LINT)
	@$(VENV)/bin/mypy & types=$$!; S2L_QUICK_TESTS=1 $(VENV)/bin/python -m pytest -q -n 2 --dist loadfile tests/unit; tests=$$?; wait $$types && exit $$tests

# With ARGS only the tests that they choose, long ones too. Tests wait now and then for what they started; types need a core meanwhile.
test: setup-dev
	@[ -n "$(ARGS)" ] || { $(LINT); }
	@types=; [ -n "$(ARGS)" ] || { $(VENV)/bin/mypy & types=$$!; }; \
		$(VENV)/bin/python -m pytest -n 2 --dist loadfile $(or $(ARGS),-m "not long"); tests=$$?; \
		wait $$types && exit $$tests

test-long: setup-dev
	@$(VENV)/bin/python -m pytest -n 2 --dist loadfile -m long

audit: $(AUDIT)/.ready
	@$(AUDIT)/bin/python requirements/audit.py requirements/cpu.lock requirements/cuda.lock requirements/mlflow.lock \
		requirements/dev.lock

$(AUDIT)/.ready: requirements/audit.lock
	@$(PYTHON) -m venv $(AUDIT)
	@$(AUDIT)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -r requirements/audit.lock
	@touch $@

chaos: setup-dev
	@$(VENV)/bin/python -m tests.chaos $(ARGS)

bench: setup-dev
	@$(VENV)/bin/python -m tests.benchmarks $(ARGS)

docs: setup-dev
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

clean:
	rm -rf $(VENV) .cache build site *.egg-info .mypy_cache .pytest_cache .ruff_cache
