# hostmesh: `make lab` runs Bookinfo in the mesh on this machine, `make test` runs every test.
.DEFAULT_GOAL := help
BIN := .venv/bin
COMPILE := $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
export PATH := $(CURDIR)/.venv/bin:$(CURDIR)/build/tools/bin:$(PATH)

help:  ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup-run:
	@.ci/setup run
setup:
	@.ci/setup dev

lab: setup-run  ## Start Bookinfo in the mesh on this machine
	@$(BIN)/hostmesh lab up
lab-down:  ## Remove every trace of the lab
	@[ ! -x $(BIN)/hostmesh ] || $(BIN)/hostmesh lab down

check: setup  ## Format, lint, types, layers, unit and golden tests (under a minute)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target .unit .static .rules
.static:
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@.ci/file-length
.unit:
	@$(BIN)/pytest tests/unit --ignore-glob='*/test_api_*'
.rules:
	@$(BIN)/pytest tests/unit/test_api_*.py tests/golden

integration: setup  ## Real Consul, Envoy, iptables and dnsmasq in network namespaces
	@$(BIN)/pytest tests/integration
e2e: setup  ## The packages on whole systemd machines
	@$(BIN)/pytest tests/e2e

test:  ## Everything, with the time of each stage
	@.ci/stages check integration e2e

newcomer:  ## Walk the README's road on a fresh Debian 12 (a debootstrap root; needs root)
	@.ci/fresh-machine
deb: setup  ## Build the Debian packages into dist/
	@packaging/build
vagrant-box:  ## Build the box of the Vagrant lab for LXC (needs root)
	@.ci/setup vagrant
	@vagrant/lxc/build-box
vagrant-test:  ## The Vagrant lab on LXC, as vagrant/README.md shows it (needs root; some minutes)
	@.ci/setup vagrant
	@$(BIN)/pytest -rs tests/vagrant
man: setup  ## Write the manual pages and shell completion into build/man
	@$(BIN)/python -m agent.cli.manual build/man
reference: setup  ## Write docs/configuration.md from the types that read the files
	@$(BIN)/python -m agent.cli.reference packaging/examples >build/configuration.md
	@mv build/configuration.md docs/configuration.md

lock:  ## Renew the lock files from pyproject.toml
	@$(BIN)/pip install -q uv
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' | \
	  $(COMPILE) -o requirements-build.lock -
	@$(COMPILE) -c requirements-build.lock -o requirements.lock pyproject.toml
	@$(COMPILE) -c requirements-build.lock -c requirements.lock --extra dev -o requirements-dev.lock pyproject.toml

.PHONY: help setup setup-run lab lab-down check .static .unit .rules integration e2e test newcomer deb vagrant-box vagrant-test man reference lock
