# make train and make test build their own environment in .venv; nothing has to be installed before them.
#   make train ARGS="listops-short --seed 2"     arguments for `rlparse train`
#   make test  PYTHON=python3.12                 another interpreter for the environment

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help train test lint format types bench clean

help:  ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

train: $(VENV)/.installed  ## Train an agent on the default preset (logic), about a minute on 2 cores
	@$(BIN)/rlparse train $(ARGS)

test: lint types  ## Everything CI runs: lint, types, then pytest, which also builds and installs the wheel
	@$(BIN)/pytest $(ARGS)

lint: $(VENV)/.installed-dev  ## ruff: lint rules and formatting
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

format: $(VENV)/.installed-dev  ## Let ruff mend what it can, then format
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

types: $(VENV)/.installed-dev  ## mypy --strict over the four packages
	@$(BIN)/mypy --strict

bench: $(VENV)/.installed  ## Measure throughput on this machine, side by side with others: about 10 minutes
	@$(BIN)/rlparse bench $(ARGS)

clean:  ## Remove the environment, caches and build output; runs/ stays
	rm -rf $(VENV) build dist .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find rlparse envs agents experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. Each stage leaves a stamp; one that is older than what it was made from is done again.

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("rlparse needs Python 3.11 or newer, but $(PYTHON) is " \
		+ sys.version.split()[0] + "; name another one: make PYTHON=python3.12 ...")'
	@echo "Creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# torch goes first and alone, from its pin, so that no other package chooses its build.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "Installing rlparse and its dependencies into $(VENV) (once)"
	@$(PIP) torch
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the development tools into $(VENV) (once)"
	@$(PIP) --editable '.[dev]'
	@touch $@
