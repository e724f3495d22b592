# make demo: a job runs through a throw-away gatekeeper in under a minute.
# make test: linters, types and every test.  make peers (root, Debian): the real clients and servers.
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint peers bench docs clean

demo: $(VENV)/.installed
	$(BIN)/gram demo --once

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/.test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.test-installed
	$(BIN)/python -m bench

docs: $(VENV)/.test-installed
	$(BIN)/pip install --quiet --editable '.[docs]'
	$(BIN)/python -m tools.generate_docs
	$(BIN)/mkdocs build --strict

peers:
	apt-get update
	DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $$(grep -v '^#' conf/peers.txt)

$(VENV)/bin/python:
	PYTHON=$${PYTHON:-$$(./tools/find-python)} && "$$PYTHON" -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.test-installed: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache
