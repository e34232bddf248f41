# What people and CI run. `make` is everything that must hold before a change goes in.
.DEFAULT_GOAL := all
.PHONY: all test slow format-check lint types fix bench bundle advisories lock clean environment

DEV := .venv-dev/bin
SCRIPTS := install.sh tests/run .ci/run

all: format-check lint types test

test:
	./tests/run $(ARGS)

slow: # real runs of install.sh and the like; minutes
	./tests/run -m slow $(ARGS)

format-check: environment
	$(DEV)/ruff format --check .

lint: environment format-check
	$(DEV)/ruff check .
	$(DEV)/shellcheck $(SCRIPTS)

types: environment
	$(DEV)/mypy

fix: environment
	$(DEV)/ruff check --fix .
	$(DEV)/ruff format .

bench:
	@./install.sh --environment .venv-bench test,bench
	.venv-bench/bin/python -m benchmarks.scan $(ARGS)

bundle: environment # dist/dlvmguard-VERSION-bundle.tar.gz, which installs without a network
	$(DEV)/python -m release.bundle

advisories: environment # the database that ships with the program; FROM=all.zip KEV=kev.json DATE=day for newer sources
	$(DEV)/python -m release.advisories --from "$(FROM)" --kev "$(KEV)" --date "$(DATE)"

PYTHON ?= python3.10
lock: # the newest versions of all dependencies, with their hashes
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m release.lock
	rm -rf .venv-lock

clean: # .venv is left: it may hold what scans remembered
	rm -rf .venv-test .venv-test-* .venv-bench .venv-dev .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage build dist *.egg-info
	find agent tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

environment:
	@./install.sh --environment .venv-dev test,lint
