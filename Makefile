# Every target sets itself up in .venv from a bare clone. PYTHON picks the interpreter to build it with.
PYTHON ?= python3
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test coverage lint check format hooks clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/make \1\t\2/' | expand -t 14

demo: .venv/.render-installed ## Render configs/scripts/demo.yaml into out/demo, and make its film
	$(BIN)/swd-video render configs/scripts/demo.yaml --out out/demo

test: .venv/.development-installed ## Run the test suite
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

coverage: .venv/.development-installed ## Run the test suite and list what no test ran
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal --cov

lint: .venv/.development-installed ## Format, lint, types, import rules and dependency rules
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .

check: lint test ## Everything that CI runs: lint, then test

format: .venv/.development-installed ## Format the code and fix what ruff can fix
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

hooks: .venv/.development-installed ## Install the pre-commit hooks
	$(BIN)/pre-commit install

clean: ## Remove the environment and every cache
	rm -rf .venv .coverage* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# What rendering needs and nothing more.
.venv/.render-installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --editable .
	touch $@

.venv/.development-installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --editable '.[train,evaluation,film,studio,xformers,dev]'
	touch $@ .venv/.render-installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
	  "error: $(PYTHON) is Python %d.%d; swd-video needs 3.11 or newer. Try: make PYTHON=python3.11 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
