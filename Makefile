# Everything starts here. Needs Python >= 3.11 and make; the rest is installed into .tools and .venv.
SHELL := /bin/sh
.DEFAULT_GOAL := help
PYTHON_PATHS := libs services deploy tests docs
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
UNIT := not system and not engines and not docker and not faults
WORKERS ?= 2
ENGINE_WORKERS ?= 3

.PHONY: help setup demo down test test-unit test-engines bench sim faults kernel-check wheels agent-image agent-image-check gpu-check proto proto-check lint types imports docs format lock

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install everything for development
	@deploy/bootstrap dev

demo: ## Set up, start the yard, run the example, print its record, cost and trace
	@deploy/bootstrap demo
	@$(BIN)/runyard demo

down: ## Stop the yard and leave no process
	@[ ! -x $(BIN)/runyard ] || $(BIN)/runyard down --force

test: setup ## The whole suite: style, types, contracts, unit tests, tests on real engines
	@tests/tools/run-checks

test-unit: setup ## The quick tests: no engines, no programs of the machine
	@tests/tools/unit-tests

test-engines: setup ## All other tests: real programs and engines, with Docker where there is a daemon
	@$(PYTEST) -n $(ENGINE_WORKERS) --dist loadgroup -m "not ($(UNIT))"

bench: setup ## Benchmarks; ONLY=name for one. Writes build/bench
	@$(BIN)/python -m tests.bench $(ONLY)

sim: setup ## Whole-system simulation; SEED=n, SEEDS=n
	@[ -d tests/sim ] || { echo "make sim: this version has no simulation yet" >&2; exit 2; }
	@$(BIN)/python -m tests.sim $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS))

faults: setup ## Kill and cut tests against real processes, whole doses; SECONDS=n of the log under attack
	@RUNYARD_FAULT_DOSE=whole RUNYARD_FAULT_SECONDS=$(or $(SECONDS),60) $(PYTEST) -m faults tests services

kernel-check: setup ## The agent's tests on a kernel of their own, in QEMU: cgroup 2, NFS, systemd; takes minutes
	@tests/tools/kernel-check/run

wheels: setup ## Build our wheels for other machines and persons into build/wheels
	@rm -rf build/wheels
	@for package in libs/core libs/contracts libs/client libs/runspec libs/cli libs/eventlog libs/replay services/runner_agent; do \
	  (cd $$package && "$(CURDIR)/$(BIN)/python" -m hatchling build -t wheel -d "$(CURDIR)/build/wheels" >/dev/null) || exit 1; \
	done

agent-image: setup ## Build the agent's container image; BASE=image with Python >= 3.11
	@rm -rf build/agent
	@deploy/agent/wheelhouse build/agent/wheels
	@docker build $(if $(BASE),--build-arg BASE=$(BASE)) -t runyard-agent -f deploy/agent/Dockerfile build/agent

agent-image-check: agent-image ## Build the agent's image and replace a running agent of it; BASE=image
	@RUNYARD_AGENT_IMAGE=runyard-agent RUNYARD_REQUIRE_DOCKER=1 $(PYTEST) tests/e2e/test_agent_in_container.py

gpu-check: setup ## The agent's GPU tests on this machine's own GPUs; fails where there is none
	@RUNYARD_REQUIRE_GPU=1 $(PYTEST) services/runner_agent/tests -k gpus_real

proto: setup ## Write the generated code of the contracts
	@proto/generate

proto-check: setup ## Check the contracts: style, format, no breaking change, generated code up to date
	@tests/tools/check-proto

lint: setup ## Style
	@$(BIN)/ruff check $(PYTHON_PATHS)
	@$(BIN)/ruff format --check $(PYTHON_PATHS)

types: setup ## mypy strict, tests too
	@tests/tools/check-types

imports: setup ## Who may import whom
	@$(BIN)/lint-imports --config pyproject.toml

docs: setup ## Write the generated reference pages
	@for script in docs/generate_*.py; do $(BIN)/python "$$script"; done

format: setup ## Put the code into shape
	@$(BIN)/ruff check --fix $(PYTHON_PATHS)
	@$(BIN)/ruff format $(PYTHON_PATHS)

lock: setup ## Resolve all dependencies anew into constraints.txt
	@$(BIN)/python deploy/lock.py
