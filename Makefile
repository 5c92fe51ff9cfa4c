# make help lists the targets. Everything is installed into .venv, pinned by constraints.txt.

PYTHON ?= python3
RECIPE ?= digits
ROOT ?= ./runs
ARGS ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
# One process for each core, each with one thread: small tensors gain nothing from more.
SHARED := -n 2 --dist loadscope --no-loadscope-reorder

.PHONY: help run paper test test-long test-all test-gpu end-to-end test-fast check lint map s3-server ui results clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: .venv/.installed ## run the whole pipeline (RECIPE=digits ROOT=./runs ARGS="--set train.num_steps=500")
	@$(BIN)/python -m flows.train_ddpm $(RECIPE) --root '$(ROOT)' $(ARGS)

paper: .venv/.installed ## run the whole paper: also samplers, coding, trajectories, ablations (RECIPE=digits)
	@$(BIN)/python -m flows.paper $(RECIPE) --root '$(ROOT)' $(ARGS)

test: .venv/.installed-dev ## run the tests that this machine can run in ten minutes (ARGS="-k name")
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SHARED) -m "not end_to_end and not long" $(ARGS)

test-long: .venv/.installed-dev ## run the tests of half a minute and more: killed trainings, networks at full size
	@$(BIN)/python -m pytest -m "long and not end_to_end" $(ARGS)

test-all: .venv/.installed-dev ## run both at once, which is faster than one after the other
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SHARED) -m "not end_to_end" $(ARGS)

test-gpu: .venv/.installed-dev ## run the tests that need a CUDA device, against the same on the CPU
	@$(BIN)/python -m pytest -m gpu $(ARGS)

end-to-end: .venv/.installed-dev ## run the README's commands as a user does, kills included
	@$(BIN)/python -m pytest -m end_to_end $(ARGS)

test-fast: .venv/.installed-dev ## run the tests that need no cluster and no server
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SHARED) -m "not slow and not ray and not prefect and not s3 and not end_to_end" $(ARGS)

lint: .venv/.installed-dev ## style, types and import contracts
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

s3-server: ## install the S3 server that tests run against (Debian packages, as root): without it they are skipped
	@infra/s3-server install

map: .venv/.installed-dev ## write docs/map.md anew: every file in one line
	@$(BIN)/python -m tests.test_map

check: lint test-all ## lint and all tests but end-to-end

# A server has a page of its own; a database needs `mlflow ui`.
ifneq ($(filter http://% https://%,$(MLFLOW_TRACKING_URI)),)
ui:
	@echo "MLFLOW_TRACKING_URI is a server: open $$(echo "$$MLFLOW_TRACKING_URI" | sed -E 's,//[^/]*@,//,')"
else
ui: results .venv/.installed ## open MLflow on the results under ROOT (loopback, port 5000)
	@$(BIN)/python -m mlflow ui --host 127.0.0.1 --port 5000 \
	  --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///$$(cd '$(ROOT)' && pwd)/mlflow.db}"
endif

results:
	@test -n "$$MLFLOW_TRACKING_URI" || test -e '$(ROOT)/mlflow.db' || { \
	  echo "there is no $(ROOT)/mlflow.db yet: run 'make run' first, or give ROOT=FOLDER, the root of" \
	    "your runs; for runs on S3 set MLFLOW_TRACKING_URI" >&2; exit 1; }

clean: ## remove .venv and caches; never touches runs
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info

# Without its stamp, .venv is what a failed or killed installation left: it begins anew (--clear).
# Its python is no sign, since that is there before pip is.
.venv/.installed: pyproject.toml constraints.txt
	@test -e $@ || $(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else \
	  f"Python 3.11 or 3.12 is needed, $(PYTHON) is {v[0]}.{v[1]}: give another, e.g. make run PYTHON=python3.11")'
	@test -e $@ || $(PYTHON) -m venv --clear .venv
	@echo "installing into .venv: this takes minutes, and pip says nothing meanwhile"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	@touch $@

.venv/.installed-dev: .venv/.installed
	@echo "installing what the tests need into .venv"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
