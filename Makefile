# Two commands matter: `make demo` and `make test`. Each does all the set-up it needs.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Test processes side by side. Each imports torch for itself, so more than four do not pay.
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))
PACKAGES := perception_core perception_nodes training mmmt_cli

# The ROS wheels re-execute the interpreter with these set. Inherited from a parent that ran in another environment
# they would make ours load that environment's libraries.
unexport LD_LIBRARY_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE PYTHONPATH PYTHONHOME
# Where it is set, every process would compile all it imports anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup test test-all lint format demo bench clean distclean
.DEFAULT_GOAL := help

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' Makefile

setup:  ## Create .venv from the lock file and build the ROS interfaces (does nothing when up to date)
	@PYTHON="$(PYTHON)" tools/setup.sh

test: setup  ## Run the tests that need neither a GPU nor much time; ARGS="-k name" narrows them
	$(BIN)/python -m pytest -m "not slow and not gpu" -n $(WORKERS) --dist loadfile --durations 25 $(ARGS)

test-all: setup  ## Run every test this machine can run
	$(BIN)/python -m pytest $(ARGS)

lint: setup  ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(addprefix -p ,$(PACKAGES))

format: setup  ## Put every file into the house's format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

demo: setup  ## Drive the stack with the generated recording; the report lands in runs/demo
	$(BIN)/mmmt demo --report runs/demo $(ARGS)

bench: setup  ## Measure transport and overhead on this machine; JSON files land in runs/bench
	@mkdir -p runs/bench
	$(BIN)/mmmt bench transport --json > runs/bench/transport.json
	$(BIN)/mmmt bench overhead --json > runs/bench/overhead.json
	@cat runs/bench/transport.json runs/bench/overhead.json

clean:  ## Remove caches and build leftovers; keeps .venv and runs
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf ros_ws/build ros_ws/install ros_ws/log
	find $(PACKAGES) tests tools benchmarks launch -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## Remove .venv as well
	rm -rf $(VENV)
