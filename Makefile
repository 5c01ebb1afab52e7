.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# Recipes read the user's variables from the environment, as "$$MODEL". Make would run $$(shell …) in a value that it
# expands, and the shell would run `…` in a value that is part of its line. tests/test_makefile.py checks this.
$(foreach name,$(filter-out -%,$(.VARIABLES)),$(if $(filter command,$(firstword $(origin $(name)))),\
    $(eval override $(name) := $$(value $(name)))$(eval export $(name))))
# Defaults of several targets, as shell words.
model := "$${MODEL:-stn-cifar10}"
version := $${VERSION:+--version="$$VERSION"}
dry_run := $${DRY_RUN:+--dry-run}
READY := .venv/.ready
# Long files start first, see tests/conftest.py. Each file runs in one process, so that its fixtures are made once.
AT_ONCE := -n 2 --dist loadfile --no-loadscope-reorder
# DVC's stages call `python`, and recipes call `dvc` by name.
export PATH := $(CURDIR)/.venv/bin:$(value PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv
export PYTHONUNBUFFERED := 1
# DVC needs a name, which a user id in a container may not have.
export USER := $(or $(value USER),$(shell id -un 2>/dev/null || id -u))
# For programs of others, which do not read .env. As in our own commands, the real environment wins over .env.
WITH_ENV := $(if $(wildcard .env),dotenv --file .env run --no-override --)

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## create .venv from requirements.lock, if it is missing or out of date

$(READY): requirements.lock pyproject.toml
	@"$${PYTHON:-python3}" tools/set_up.py
	@touch $@

demo: $(READY)  ## run the whole pipeline on scikit-learn's digits, distorted; downloads nothing
	@tools/demo.sh

experiment: $(READY)  ## run the pipeline with the settings of a file, params.yaml unchanged; FILE=experiments/mine.yaml
	@[ -n "$${FILE:-}" ] || { echo "error: FILE: none given; a file of settings, such as experiments/demo.yaml" >&2; exit 2; }; \
		python -m tools.experiment "$$FILE"

repro: $(READY)  ## run the pipeline of params.yaml; [SOURCE=path to a local copy of the data, set as data.source]
	@if [ -n "$${SOURCE:-}" ]; then python -m pipelines.params --source="$$SOURCE"; fi
	dvc repro

tune: $(READY)  ## search for a better localization network, or continue; [TRIALS=number in total, set as tune.trials]
	@if [ -n "$${TRIALS:-}" ]; then python -m pipelines.params tune.trials="$$TRIALS"; fi
	dvc repro tune

dashboard: $(READY)  ## show the study of params.yaml in optuna-dashboard; [DASHBOARD_PORT=8080]
	@port=$${DASHBOARD_PORT:-8080}; ! (exec 3<>"/dev/tcp/127.0.0.1/$$port") 2>/dev/null || \
		{ echo "error: DASHBOARD_PORT: $$port given; another program listens there" >&2; exit 2; }; \
		config=$$(python -m pipelines.tune --dashboard); \
		echo "The study on http://127.0.0.1:$$port/"; \
		optuna-dashboard --host 127.0.0.1 --port="$$port" --from-config <(echo "$$config")  # no password for ps

ui: $(READY)  ## open MLflow's UI on 127.0.0.1; [PORT=5000]
	@MLFLOW_PORT="$${PORT:-5000}" mlflow/server.sh

backup: $(READY)  ## copy the tracking store, database and artifacts, to a new folder; TO=folder
	@python -m tools.backup to "$${TO:-}"

restore: $(READY)  ## restore the tracking store from a backup, with the server stopped; FROM=folder [OVERWRITE=1]
	@python -m tools.backup from "$${FROM:-}" $${OVERWRITE:+--overwrite}

account: $(READY)  ## create an account on the tracking server, or change its password; NAME=kim [PERMISSION=EDIT] [DELETE=1]
	@python -m tools.account "$${NAME:-}" $${PERMISSION:+--permission="$$PERMISSION"} $${DELETE:+--delete}

plots: $(READY)  ## write DVC's plots as one page that opens without a network
	@[ -e state/plots_page.html ] || python -m tools.plots_page
	dvc plots show

push: $(READY)  ## push results and the run cache to DVC's remote, with the credentials of .env
	@$(WITH_ENV) dvc push --run-cache

pull: $(READY)  ## pull results and the run cache from DVC's remote; dvc repro then has nothing to train
	@$(WITH_ENV) dvc pull --run-cache

summary: $(READY)  ## print the layers of a variant; [VARIANT=stn]
	@python -m pipelines.commands.summary "$${VARIANT:-stn}"

promote: $(READY)  ## test the challenger; it becomes champion if it passes the gates; [MODEL=stn-cifar10] [VERSION=n] [DRY_RUN=1] [FORCE="reason"]
	@python -m pipelines.commands.promote $(model) $(version) $(dry_run) $${FORCE:+--force="$$FORCE"}

rollback: $(READY)  ## restore the previous champion; [MODEL=stn-cifar10] [REASON="why"]
	@python -m pipelines.commands.rollback $(model) $${REASON:+--reason="$$REASON"}

history: $(READY)  ## list every promotion, refusal and rollback; [MODEL=stn-cifar10]
	@python -m pipelines.commands.history $(model)

provenance: $(READY)  ## show what made a version; [MODEL=stn-cifar10] [VERSION=n]; or the versions made from COMMIT= or DATA=
	@if [ -n "$${COMMIT:-}$${DATA:-}" ]; then \
		python -m pipelines.commands.provenance $(version) $${COMMIT:+--commit="$$COMMIT"} $${DATA:+--data="$$DATA"}; \
		else python -m pipelines.commands.provenance $(model) $(version); fi

reproduce: $(READY)  ## train a version again and compare the weights; [MODEL=stn-cifar10] [VERSION=n]
	@python -m pipelines.commands.reproduce $(model) $(version)

serve: $(READY)  ## serve the champion, and a page, over HTTP; [MODEL=stn-cifar10] [VERSION=n] [PORT=5001] [HOST=127.0.0.1] [RELOAD=60] [CORS=origin]
	@python -m pipelines.commands.serve $(model) $(version) --port="$${PORT:-5001}" $${HOST:+--host="$$HOST"} \
		$${RELOAD:+--reload="$$RELOAD"} $${CORS:+--cors="$$CORS"}

play: serve  ## the same as serve: the page shows what the transformer does to an image that you move

predict: $(READY)  ## classify images with the champion; IMAGES="a.png b.jpg" [MODEL=stn-cifar10] [VERSION=n] [OUT=folder]
	@python -m pipelines.commands.predict $(model) $(version) --list="$${IMAGES:-}" $${OUT:+--out="$$OUT"}

export: $(READY)  ## write a version as one file for other programs; [MODEL=stn-cifar10] [VERSION=n] [FORMAT=onnx or pt2] [OUT=file]
	@python -m pipelines.commands.export $(model) $(version) $${FORMAT:+--format="$$FORMAT"} $${OUT:+--out="$$OUT"}

score: $(READY)  ## classify whole folders, parquet files or buckets; SOURCE=folder or s3://… OUT=folder [MODEL=stn-cifar10] [VERSION=n] [ACTORS=n]
	@python -m pipelines.commands.score $(model) $(version) --source="$${SOURCE:-}" --out="$${OUT:-}" $${ACTORS:+--actors="$$ACTORS"}

bench: $(READY)  ## run the benchmarks on the prepared CIFAR-10; [ONLY="scaling overhead"]
	@set -f; for name in $${ONLY:-training_throughput time_to_accuracy scaling overhead inference tuning}; do \
		[ -e "benchmarks/$$name.py" ] || { echo "error: ONLY: '$$name' given; there is no such benchmark" >&2; exit 2; }; \
		python -m "benchmarks.$$name"; done

paper: $(READY)  ## train what is missing in the paper's table on MNIST; [ONLY=R, R-ST-CNN, addition or colocalization] [SCHEDULE=long] [MINUTES=60]
	@tools/paper.sh

doctor: $(READY)  ## show what this machine offers, and what is wrong
	@python -m pipelines.commands.doctor

test: $(READY)  ## run all tests
	pytest $(AT_ONCE)

test-fast: $(READY)  ## run the tests that are not slow
	pytest $(AT_ONCE) -m "not slow"

lint: $(READY)  ## run ruff and basedpyright
	ruff check .
	ruff format --check .
	basedpyright

lock: $(READY)  ## update requirements.lock from pyproject.toml
	uv pip compile pyproject.toml --extra dev --extra heic --universal --python-version 3.11 --no-annotate --no-header --upgrade \
		--output-file requirements.lock

clean: $(READY)  ## free the outputs of the stages; keeps database, artifacts, raw data and DVC's cache; [DRY_RUN=1]
	@python -m pipelines.commands.clean $(dry_run)

clean-all: $(READY)  ## the same, and also free .venv and the state of every training; [DRY_RUN=1]
	@python -m pipelines.commands.clean --all $(dry_run)

.PHONY: help setup demo experiment repro tune dashboard ui backup restore account plots push pull summary promote rollback history provenance reproduce serve play predict export score bench paper doctor test test-fast lint lock clean clean-all
