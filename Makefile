# make demo   install, and run the embedded evaluation with its report
# make test   install what tests need, and run them
# make check  lint and types
# make docs   build the documentation site into build/site, warnings are errors
PYTHON ?= python3
BIN := .venv/bin
# one process per core, with one thread each: threads that wait for each other are slower than none
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical

.PHONY: demo test test-all check docs clean

demo: .venv/installed
	$(BIN)/robustvideo evaluate

test: .venv/installed-dev
	$(PYTEST) -m "not slow"

test-all: .venv/installed-dev
	$(PYTEST)

check: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: .venv/installed-dev
	$(BIN)/mkdocs build --strict

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "robustvideo needs Python 3.11 or newer: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv runs build
