# Everything a developer or CI runs. `make run` starts a station; `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready
PEERS := .venv-bench
PEERS_READY := $(PEERS)/.ready
# Each test worker starts real servers: more workers than this help only on large machines.
WORKERS ?= 2
ARGS ?=

.PHONY: help setup run test check format bench bench-lock lock clean
.NOTPARALLEL:

help:
	@echo "make run      start a local station with a demo source, in the foreground (Ctrl-C ends it)"
	@echo "make setup    create $(VENV) with the pinned dependencies"
	@echo "make test     run the whole test suite        (ARGS='-k source' passes arguments to pytest)"
	@echo "make check    lint, format, types, import rules"
	@echo "make format   put the code into shape"
	@echo "make bench    measure, beside Pub/Sub and task queues (ARGS='roundtrip --quick', ARGS='log')"
	@echo "make lock     pin the dependencies again, after a change in pyproject.toml"
	@echo "make clean    remove $(VENV) and caches (never a station's data)"

setup: $(READY)
	@:

$(INSTALLED): requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "make: '$(PYTHON)' was not found. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $$($(PYTHON) --version) is too old. Tocsin needs Python 3.11 or newer: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: this Python has no venv module. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV) (once; takes a minute)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --disable-pip-version-check install -qq --require-hashes --no-deps -r requirements.lock
	@touch $@

$(READY): $(INSTALLED) pyproject.toml
	@$(BIN)/python -m pip --disable-pip-version-check install -qq --no-deps --no-build-isolation --editable .
	@touch $@

run: setup
	@exec $(BIN)/tocsin up --demo $(ARGS)

test: setup
	@$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup $(PEERS_READY)
	@$(BIN)/python -m bench $(ARGS)

# What Tocsin is measured beside wants other versions of the same packages.
$(PEERS_READY): bench/requirements.lock
	@echo "Setting up $(PEERS) (once; takes a minute)"
	@rm -rf $(PEERS)
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip --disable-pip-version-check install -qq --require-hashes --no-deps -r bench/requirements.lock
	@touch $@

bench-lock: setup
	@UV_CUSTOM_COMPILE_COMMAND="make bench-lock" $(BIN)/uv pip compile bench/requirements.in --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--quiet --output-file bench/requirements.lock

lock: setup
	@UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile pyproject.toml --group dev --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--quiet --output-file requirements.lock

clean:
	rm -rf $(VENV) $(PEERS) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
