# make help lists the targets. Everything is installed into .venv, pinned by constraints.txt.

PYTHON ?= python3
RECIPE ?= digits
ROOT ?= ./runs
PORT ?= 5000
ARGS ?=
# As variables of the shell they may hold spaces and quotes.
ui results: export ROOT := $(ROOT)
ui: export PORT := $(PORT)
BIN := .venv/bin

.DEFAULT_GOAL := help
# Two processes, of one thread each: small tensors gain nothing from more. tests/sharing.py says who
# takes what.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

.PHONY: help run paper docs docs-commands test test-all test-nodes test-gpu trained end-to-end faults test-fast check lint map s3-server ui results play report clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: .venv/.installed ## run the whole pipeline (RECIPE=digits ROOT=./runs ARGS="--set train.num_steps=500")
	@$(BIN)/python -m flows.train_ddpm $(RECIPE) --root '$(ROOT)' $(ARGS)

paper: .venv/.installed ## run the whole paper: also samplers, coding, trajectories, ablations (RECIPE=digits)
	@$(BIN)/python -m flows.paper $(RECIPE) --root '$(ROOT)' $(ARGS)

test: .venv/.installed-dev ## run all tests but those that take long, in about five minutes (ARGS="-k name")
	@$(TESTS) -m "not end_to_end and not long and not nodes and not trained and not pages" $(ARGS)

test-all: .venv/.installed-dev ## run every test that this machine can run, but whole trainings and two machines
	@$(TESTS) -m "not nodes and not trained and not pages" $(ARGS)

test-nodes: .venv/.installed-dev ## run the test over two machines: two network namespaces, as root, four minutes
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m nodes $(ARGS)

test-gpu: .venv/.installed-dev ## run the tests that need a CUDA device, against the same on the CPU
	@$(BIN)/python -m pytest -m gpu $(ARGS)

trained: .venv/.installed-dev ## run the acceptance bars of whole trainings, ten minutes
	@$(TESTS) -m trained $(ARGS)

end-to-end: .venv/.installed-dev ## run the README's commands as a user does, kills included
	@$(BIN)/python -m pytest -m end_to_end $(ARGS)

test-fast: .venv/.installed-dev ## run the tests that need no cluster and no server
	@$(TESTS) -m "not slow and not long and not ray and not prefect and not s3 and not end_to_end and not nodes and not trained and not pages" $(ARGS)

faults: .venv/.installed-dev ## strike finished and unfinished runs with kills, damage and swaps for ten minutes (ARGS="--seed 1")
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.campaign $(ARGS)

lint: .venv/.installed-dev ## style, types and import contracts
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

s3-server: ## install the S3 server that tests run against (Debian packages, as root): without it they are skipped
	@infra/s3-server install

map: .venv/.installed-dev ## write docs/map.md anew: every file in one line
	@$(BIN)/python -m tests.test_map

docs: .venv/.installed-dev ## build the documentation's site into ./site; warnings are errors, and nothing is fetched
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "site/index.html; or, with search: $(BIN)/python -m http.server --bind 127.0.0.1 --directory site 8000"

docs-commands: .venv/.installed-dev ## run the commands of every page, with small sizes, an hour (ARGS="-k tutorial")
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m pages $(ARGS)

check: lint test-all ## lint and every test

ui: results .venv/.installed ## open MLflow on the results under ROOT (loopback, PORT=5000)
	@$(BIN)/python -m ddpm_core.tracking.ui "$$ROOT" --port "$$PORT"

play: export ROOT := $(ROOT)
play: .venv/.installed ## open a page to play with the newest model under ROOT (loopback, PORT=7860)
	@$(BIN)/python -c 'import gradio' 2>/dev/null || $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[play]'
	@$(BIN)/python -m ddpm_core play --root "$$ROOT" $(if $(filter file,$(origin PORT)),,--port '$(PORT)') $(ARGS)

report: export ROOT := $(ROOT)
report: .venv/.installed ## write report.html of a run, and open it (RUN=digits, or several names)
	@$(BIN)/python -m ddpm_core report $(or $(RUN),$(RECIPE)) --root "$$ROOT" $(ARGS)
	@$(if $(findstring --out,$(ARGS)),:,$(BIN)/python -m webbrowser report.html >/dev/null 2>&1 || true)

results:
	@test -n "$$MLFLOW_TRACKING_URI" || test -e "$$ROOT/mlflow.db" || { \
	  echo "there is no $$ROOT/mlflow.db yet: run 'make run' first, or give ROOT=FOLDER, the root of" \
	    "your runs; for runs on S3 set MLFLOW_TRACKING_URI" >&2; exit 1; }

clean: ## remove .venv and caches; never touches runs
	rm -rf .venv site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info

# Without its stamp, .venv is what a failed or killed installation left: it begins anew (--clear).
# Its python is no sign, since that is there before pip is.
define new_venv
	@test -e .venv/.installed || $(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else \
	  f"Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is {v[0]}.{v[1]}: give another, e.g. make run PYTHON=python3.11")'
	@test -e .venv/.installed || $(PYTHON) -m venv --clear .venv
endef

# pip compiles what it installed on one core, in two minutes. What does not compile is never imported.
define install
	@$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[$(1)]'
	@$(BIN)/python -m compileall -q -q -j 0 .venv/lib || true
endef

.venv/.installed: pyproject.toml constraints.txt
	$(new_venv)
	@echo "installing into .venv: this takes minutes, and pip says nothing meanwhile"
	$(call install,all)
	@touch $@

# `dev` holds `all`: one resolution and one installation, not two.
.venv/.installed-dev: pyproject.toml constraints.txt
	$(new_venv)
	@echo "installing into .venv, with what the tests need: this takes minutes, and pip says nothing meanwhile"
	$(call install,dev)
# Without its dependency torchvision, whose wheels must be of the same build as torch's: where they
# are not, as beside a torch for CPUs, its import fails and takes diffusers and transformers along.
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps torch-fidelity
	@touch .venv/.installed $@
