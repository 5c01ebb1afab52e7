.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
VARIANT ?= stn
PORT ?= 5000
DASHBOARD_PORT ?= 8080
MODEL ?= stn-cifar10
ONLY ?= training_throughput time_to_accuracy scaling overhead inference tuning
READY := .venv/.ready
AT_ONCE := -n 2 --dist loadfile --no-loadscope-reorder
# DVC's stages call `python`, and DVC itself is called by name.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv
export PYTHONUNBUFFERED := 1
# For programs that are not ours; what is set outside .env wins here, too.
WITH_ENV := $(if $(wildcard .env),dotenv --file .env run --no-override --)

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
	@config=$$(python -m pipelines.tune --dashboard); \
		echo "The study on http://127.0.0.1:$(DASHBOARD_PORT)/"; \
		optuna-dashboard --host 127.0.0.1 --port $(DASHBOARD_PORT) --from-config <(echo "$$config")  # no password for ps

ui: $(READY)  ## MLflow's UI on 127.0.0.1; PORT=5000
	@MLFLOW_PORT=$(PORT) mlflow/server.sh

backup: $(READY)  ## the tracking store, database and artifacts, to a new folder; TO=folder
	@python -m tools.backup to '$(TO)'

restore: $(READY)  ## the tracking store from a backup, the server being stopped; FROM=folder [OVERWRITE=1]
	@python -m tools.backup from '$(FROM)' $(if $(OVERWRITE),--overwrite)

account: $(READY)  ## an account of MLFLOW_TRACKING_URI, or its new password; NAME=kim [PERMISSION=EDIT] [DELETE=1]
	@python -m tools.account '$(NAME)' $(if $(PERMISSION),--permission '$(PERMISSION)') $(if $(DELETE),--delete)

plots: $(READY)  ## DVC's plots as one page that opens without a network
	@[ -e state/plots_page.html ] || python -m tools.plots_page
	dvc plots show

push: $(READY)  ## results and the run cache to DVC's remote, with the credentials of .env
	@$(WITH_ENV) dvc push --run-cache

pull: $(READY)  ## results and the run cache from DVC's remote, likewise; dvc repro then has nothing to run
	@$(WITH_ENV) dvc pull --run-cache

summary: $(READY)  ## the layers of a variant; VARIANT=stn
	@python -m pipelines.commands.summary $(VARIANT)

promote: $(READY)  ## put the challenger to the gates; MODEL=stn-cifar10 [VERSION=n] [DRY_RUN=1] [FORCE="reason"]
	@python -m pipelines.commands.promote '$(MODEL)' $(if $(VERSION),--version '$(VERSION)') $(if $(DRY_RUN),--dry-run) \
		$(if $(FORCE),--force "$$FORCE")

rollback: $(READY)  ## back to the champion before; MODEL=stn-cifar10 [REASON="why"]
	@python -m pipelines.commands.rollback '$(MODEL)' $(if $(REASON),--reason "$$REASON")

history: $(READY)  ## every decision on who is champion; MODEL=stn-cifar10
	@python -m pipelines.commands.history '$(MODEL)'

provenance: $(READY)  ## what made a version; MODEL=stn-cifar10 [VERSION=n]; or what came of COMMIT= or DATA=
	@python -m pipelines.commands.provenance $(if $(COMMIT)$(DATA),,'$(MODEL)') $(if $(VERSION),--version '$(VERSION)') \
		$(if $(COMMIT),--commit '$(COMMIT)') $(if $(DATA),--data '$(DATA)')

reproduce: $(READY)  ## train a version again, compare the weights; MODEL=stn-cifar10 [VERSION=n]
	@python -m pipelines.commands.reproduce '$(MODEL)' $(if $(VERSION),--version '$(VERSION)')

serve: PORT = 5001
serve: $(READY)  ## the champion over HTTP on 127.0.0.1; MODEL=stn-cifar10 [VERSION=n] PORT=5001
	@python -m pipelines.commands.serve '$(MODEL)' $(if $(VERSION),--version '$(VERSION)') --port '$(PORT)'

predict: $(READY)  ## classify images with the champion; MODEL=stn-cifar10 IMAGES="a.png b.jpg" [VERSION=n]
	@python -m pipelines.commands.predict '$(MODEL)' $(IMAGES) $(if $(VERSION),--version '$(VERSION)')

bench: $(READY)  ## the benchmarks on the prepared CIFAR-10; ONLY="scaling overhead"
	@for name in $(ONLY); do python -m benchmarks.$$name; done

paper: ONLY =
paper: $(READY)  ## the paper's table on MNIST, as far as it is not done yet; ONLY=R, R-ST-CNN, addition or colocalization
	@file=experiments/paper/dvc.yaml; stages=$$(dvc stage list --name-only $$file | awk -v only='$(ONLY)' '{ name = $$0; \
			sub(/.*:(train@)?/, "", name); sub(/@/, "-", name); if (!only || index(name "-", only "-") == 1) print }'); \
		[ -n "$$stages" ] || { echo "error: ONLY: '$(ONLY)' given; a distortion or addition, and a network: R, R-ST-CNN; or colocalization" >&2; exit 2; }; \
		dvc repro $$stages; \
		dvc repro --single-item $$file:table

doctor: $(READY)  ## what this machine offers, and what is wrong
	@python -m pipelines.commands.doctor

test: $(READY)  ## all tests
	pytest $(AT_ONCE)

test-fast: $(READY)  ## the tests without the slow ones
	pytest $(AT_ONCE) -m "not slow"

lint: $(READY)  ## ruff and basedpyright
	ruff check .
	ruff format --check .
	basedpyright

lock: $(READY)  ## requirements.lock anew, from pyproject.toml
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --no-annotate --no-header --upgrade \
		--output-file requirements.lock

clean: $(READY)  ## free what the stages made, saying what; database, artifacts, raw data and DVC's cache stay; [DRY_RUN=1]
	@python -m pipelines.commands.clean $(if $(DRY_RUN),--dry-run)

clean-all: $(READY)  ## the same, and .venv and what is kept of every training; [DRY_RUN=1]
	@python -m pipelines.commands.clean --all $(if $(DRY_RUN),--dry-run)

.PHONY: help setup demo repro tune dashboard ui backup restore account plots push pull summary promote rollback history provenance reproduce serve predict bench paper doctor test test-fast lint lock clean clean-all
