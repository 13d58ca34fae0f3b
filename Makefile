# Everything a person or a machine does with a checkout. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format bench results docs clean distclean

VENV := $(or $(KPVO_VENV),$(CURDIR)/.venv)
ENV := source standalone/env.sh
DATA := $(or $(KPVO_SHARED_DATA),$(CURDIR)/../shared/data)
BENCH ?= odometry
ARGS ?=

help: ## Print this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

setup: ## Make .venv with everything in it; a second run takes a moment
	@standalone/setup.sh

demo: setup ## Play a rendered recording through the real nodes and show how well they did
	@$(ENV); kpvo demo $(ARGS)

test: setup ## Run the tests; ARGS goes to pytest (ARGS='-k camera', ARGS='-n 2')
	@$(ENV); python -m pytest $(ARGS)

lint: setup ## Check style, format, types and spelling
	@$(ENV); ruff check .
	@$(ENV); ruff format --check .
	@$(ENV); mypy
	@$(ENV); mypy standalone/stand_ins/*/
	@$(ENV); codespell

format: setup ## Repair style and format where a machine can
	@$(ENV); ruff check --fix .
	@$(ENV); ruff format .

bench: setup ## Measure; BENCH names what, the numbers go to out/bench_NAME.json
	@mkdir -p out
	@$(ENV); kpvo bench $(BENCH) --json out/bench_$(BENCH).json $(ARGS)

# replay NAME PARAMETERS: one real sequence, scored
define replay
	@$(ENV); kpvo replay "$(DATA)/$(1)" --out out/results/$(1) $(2)
	@$(ENV); kpvo evaluate out/results/$(1) --ground-truth "$(DATA)/$(1)/poses_tum.txt"
endef

results: setup ## Replay and score the real sequences that docs/results.md speaks of
	@[ -d "$(DATA)" ] || { echo 'no sequences at $(DATA): set KPVO_SHARED_DATA' >&2; exit 1; }
	$(call replay,hololens_000,scale.source=depth)
	$(call replay,kitti_seq1,scale.source=camera_height scale.camera_height_m=1.65)

docs: setup ## Write docs/parameters.md from the parameter records
	@$(ENV); kpvo params --markdown > docs/parameters.md.new
	@mv docs/parameters.md.new docs/parameters.md

clean: ## Remove what building and running leaves behind, but not .venv
	@rm -rf build install log out .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	@rm -rf standalone/stand_ins/build standalone/stand_ins/*.egg-info
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## Remove .venv too
	@rm -rf "$(VENV)"
