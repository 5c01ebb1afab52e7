.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
VARIANT ?= seed
PORT ?= 5000
DASHBOARD_PORT ?= 8080
MODEL ?= stn-cifar10
ONLY ?= training_throughput time_to_accuracy scaling overhead inference tuning
READY := .venv/.ready
# DVC's stages call `python`, and DVC itself is called by name.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv
export PYTHONUNBUFFERED := 1

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv from requirements.lock; again, it does nothing

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another with: make setup PYTHON=python3.12")'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --disable-pip-version-check -r requirements.lock
	.venv/bin/python -m pip install --disable-pip-version-check --no-deps --editable .
	touch $@

demo: $(READY)  ## the whole pipeline on handwritten digits, distorted; nothing is downloaded
	@tools/demo.sh

repro: $(READY)  ## the pipeline of params.yaml; SOURCE=path to a local copy of the data
	@source='$(SOURCE)'; if [ -n "$$source" ]; then \
		[ -e "$$source" ] || { echo "error: SOURCE: '$$source' given; there is no such file or folder" >&2; exit 2; }; \
		case $$source in /*) ;; *) source="$$PWD/$$source" ;; esac; python -m pipelines.params data.source="$$source"; fi
	dvc repro

tune: $(READY)  ## search for a better localization network, or go on with it; TRIALS=in total
	@if [ -n '$(TRIALS)' ]; then python -m pipelines.params tune.trials='$(TRIALS)'; fi
	dvc repro tune

dashboard: $(READY)  ## optuna-dashboard on the study of params.yaml; DASHBOARD_PORT=8080
	@location=$$(python -m pipelines.tune --location); \
		echo "The study on http://127.0.0.1:$(DASHBOARD_PORT)/"; \
		optuna-dashboard --host 127.0.0.1 --port $(DASHBOARD_PORT) "$$location"

ui: $(READY)  ## MLflow's UI on 127.0.0.1; PORT=5000
	@MLFLOW_PORT=$(PORT) mlflow/server.sh

summary: $(READY)  ## the layers of a variant; VARIANT=seed
	@python -m pipelines.summary $(VARIANT)

promote: $(READY)  ## put the challenger to the gates; MODEL=stn-cifar10 [VERSION=n] [DRY_RUN=1] [FORCE="reason"]
	@python -m pipelines.promote '$(MODEL)' $(if $(VERSION),--version '$(VERSION)') $(if $(DRY_RUN),--dry-run) \
		$(if $(FORCE),--force "$$FORCE")

rollback: $(READY)  ## back to the champion before; MODEL=stn-cifar10 [REASON="why"]
	@python -m pipelines.rollback '$(MODEL)' $(if $(REASON),--reason "$$REASON")

history: $(READY)  ## every decision on who is champion; MODEL=stn-cifar10
	@python -m pipelines.history '$(MODEL)'

bench: $(READY)  ## the benchmarks on the prepared CIFAR-10; ONLY="scaling overhead"
	@for name in $(ONLY); do python -m benchmarks.$$name; done

doctor: $(READY)  ## what this machine offers, and what is wrong
	@python -m pipelines.doctor

test: $(READY)  ## all tests
	pytest

test-fast: $(READY)  ## the tests without the slow ones
	pytest -m "not slow"

lint: $(READY)  ## ruff and basedpyright
	ruff check .
	ruff format --check .
	basedpyright

lock: $(READY)  ## requirements.lock anew, from pyproject.toml
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --no-annotate --no-header --upgrade \
		--output-file requirements.lock

clean:  ## delete what the stages made; the database, artifacts, raw data and DVC's cache stay
	rm -rf data/prepared data/.prepared models metrics plots reports registered.json variants/tuned.yaml
	rm -rf .pytest_cache .ruff_cache *.egg-info
	find stn pipelines benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help setup demo repro tune dashboard ui summary promote rollback history bench doctor test test-fast lint lock clean
