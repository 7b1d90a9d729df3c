# Every command a person needs. `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
unexport PYTHONDONTWRITEBYTECODE  # tests start hundreds of Pythons: what each would compile is compiled once

BIN := .venv/bin
COMPILE := env -u PIP_FIND_LINKS -u PIP_INDEX_URL -u PIP_EXTRA_INDEX_URL CUSTOM_COMPILE_COMMAND='make lock' \
	$(BIN)/pip-compile --quiet --strip-extras --generate-hashes --allow-unsafe \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --resolver=backtracking
SIDE_BY_SIDE := -n 3 --dist loadfile  # processes with a database each; they wait more than they work
LINT = $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

.PHONY: help setup demo test test-long check lint dev bench lock clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

setup: ## Install what is missing, for the tests too: Debian packages, .venv, .venv-clients
	@scripts/setup

demo: ## A cloud on this machine with a Debian server in it
	@scripts/setup --run-only
	@scripts/demo

test: setup lint ## Everything, real guests included (about 25 minutes on two cores without KVM)
	$(BIN)/pytest -m "not guest and not slow" -q $(SIDE_BY_SIDE)
	$(BIN)/pytest -m "guest or slow" -q -n 2 --dist loadfile

test-long: ## What takes an hour, or the whole internet: installers, published images (docs/testing-long.md)
	@scripts/setup --long
	PADDOCK_LONG_RESULT=$(CURDIR)/docs/testing-long-result.md $(BIN)/pytest -v -m long tests/long

check: setup lint ## Lint, types, import contracts and the fast tests (a little over 2 minutes)
	$(BIN)/pytest -m "not guest and not slow" -q $(SIDE_BY_SIDE)

lint: setup
	$(LINT)

dev: setup ## A cloud on the fake hypervisor, in the foreground, for working on the control plane
	@scripts/dev

bench: setup ## Measure, against raw QEMU; the table is left in bench/results/
	$(BIN)/python -m bench

lock: setup ## Renew requirements*.txt from pyproject.toml
	$(COMPILE) --upgrade --extra dev --output-file requirements-dev.txt pyproject.toml requirements-build.in
	$(COMPILE) --upgrade --constraint requirements-dev.txt --output-file requirements.txt pyproject.toml requirements-build.in
	$(COMPILE) --upgrade --output-file requirements-clients.txt requirements-clients.in

clean: ## Remove what can be made again
	rm -rf .venv .venv-clients .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
