# Every target sets up what it needs, so a fresh clone can start with any of them.
# One virtual environment serves all. requirements/dev.txt holds all of run.txt, at the same
# versions, so an environment for development is one for running too, and says so by both stamps.

PYTHON ?= python3.11
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
CODE := $(wildcard src tests examples benchmarks)

# A PYTHON that somebody named is meant; the default may fall back on whatever python3 is.
PYTHONS := $(PYTHON) $(if $(filter file,$(origin PYTHON)),python3)

PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check
# The lock names every package.  Left to find dependencies, pip would look for `coverage[toml]`
# past the `coverage` that is locked, and refuse what it finds on the day a newer one is out.
INSTALL_LOCKED := $(PIP_INSTALL) --require-hashes --no-deps --requirement
INSTALL_PROJECT := $(PIP_INSTALL) --no-index --no-deps --no-build-isolation --editable .
UV_COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--system-certs --no-emit-index-url --no-header --no-annotate --extra server --extra client \
	--extra socketio

# What is set in somebody's shell must not decide what runs here.
unexport PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE PYTHONWARNINGS PYTHONOPTIMIZE VIRTUAL_ENV

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test check lint types contracts docs bench format lock clean

help: ## Say what can be made
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 20
	@echo 'ARGS is handed on: make test ARGS="-k login", make run ARGS="--port 8000".'

run: $(VENV)/.run ## Start the chat server: WebSocket, Socket.IO and HTTP on 5050, TCP on 5051
	$(BIN)/chat-serve --transport ws --transport tcp --transport socketio $(ARGS)

# More of them than there are cores: much of a test is waiting for a server to start or to end.
test: $(VENV)/.dev ## Run the tests
	$(BIN)/pytest --numprocesses 4 --dist worksteal $(ARGS)

check: lint types contracts test docs ## All that CI runs

lint: $(VENV)/.dev ## Format and lint, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev ## Type-check
	$(BIN)/mypy $(CODE)

contracts: $(VENV)/.dev ## Check the direction of imports
	$(BIN)/lint-imports

docs: $(VENV)/.dev ## Build the documentation into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.bench ## Run the benchmarks, beside other servers: half an hour or more
	$(BIN)/python -m benchmarks $(ARGS)

format: $(VENV)/.dev ## Format, and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Versions move only when asked for: make lock ARGS=--upgrade
lock: $(VENV)/.dev ## Write requirements/*.txt anew from pyproject.toml
	$(UV_COMPILE) --group build $(ARGS) --output-file requirements/run.txt pyproject.toml
	$(UV_COMPILE) --group dev $(ARGS) --constraint requirements/run.txt \
		--output-file requirements/dev.txt pyproject.toml
	$(UV_COMPILE) --group bench $(ARGS) --constraint requirements/dev.txt \
		--output-file requirements/bench.txt pyproject.toml

clean: ## Remove all that make made
	rm -rf $(VENV) site dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache \
		.hypothesis .coverage htmlcov
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@for python in $(PYTHONS); do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		echo "Setting up $(VENV) with $$python."; \
		"$$python" -m venv --clear $(VENV) && exit 0 || { rm -rf $(VENV); exit 1; }; \
	done; \
	echo "chatcore needs Python 3.11 or later, and '$(PYTHON)' is not one:" \
		"install it, or name another with make PYTHON=/path/to/python." >&2; \
	exit 1

$(VENV)/.run: $(VENV)/bin/python requirements/run.txt pyproject.toml
	@echo "Installing requirements/run.txt and chatcore itself into $(VENV)."
	@$(INSTALL_LOCKED) requirements/run.txt
	@$(INSTALL_PROJECT)
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python requirements/dev.txt pyproject.toml
	@echo "Installing requirements/dev.txt and chatcore itself into $(VENV)."
	@$(INSTALL_LOCKED) requirements/dev.txt
	@$(INSTALL_PROJECT)
	@touch $(VENV)/.run $@

$(VENV)/.bench: $(VENV)/bin/python requirements/bench.txt pyproject.toml
	@echo "Installing requirements/bench.txt and chatcore itself into $(VENV)."
	@$(INSTALL_LOCKED) requirements/bench.txt
	@$(INSTALL_PROJECT)
	@if command -v npm >/dev/null; then \
		npm ci --ignore-scripts --no-audit --no-fund --silent --prefix benchmarks/peers/node; fi
	@touch $(VENV)/.run $(VENV)/.dev $@
