"""Claim: the stage tune finishes several times as many trials per hour as a naive search, and its winner is as good.

The naive search runs each trial in a new process, one after another, on all cores, without pruning. Sampler, search
space, epochs per trial and data are equal. Both sides run in the same benchmark, alternating: our side until its trials
are finished, the naive side for the same time. The best trial of each side is then trained at full length with a new
seed. The measured time includes starting Python, Ray and the workers. The data are scikit-learn's digits, distorted as
in the demo.

    python -m benchmarks.tuning --repeats 3 --trials 16
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import optuna
from ruamel.yaml import YAML

from benchmarks.measure import report
from pipelines.outputs.prepared_data import load_meta, load_training
from pipelines.preparation.run import prepare_source
from pipelines.runtime.errors import run_main
from pipelines.settings.params import RecipeParams, load_params
from pipelines.settings.variants import BASELINE, VariantParams, load_variant
from pipelines.tracking.client import connect
from pipelines.tracking.outbox import Outbox
from pipelines.training.batches import make_training_data
from pipelines.training.cluster import connected
from pipelines.training.precision import measure_precision
from pipelines.training.recipe import recipe_of
from pipelines.training.trainer import Trainer
from pipelines.tuning.heartbeat import Heartbeat
from pipelines.tuning.run import start_workers
from pipelines.tuning.runs import StudyRuns
from pipelines.tuning.search_space import to_variant
from pipelines.tuning.setup import TuningSetup
from pipelines.tuning.study import BASELINE_TRIAL, finished_trials, open_study
from pipelines.tuning.study_name import study_name, trial_recipe
from pipelines.tuning.trials import ask_trial, enqueue_baseline, run_trials
from stn.training import default_device

ROOT = Path(__file__).resolve().parents[1]


class SideResult(NamedTuple):
    """Trials per hour of one side, and the validation accuracy of its best trial at full length."""

    trials_per_hour: float
    accuracy: float


class Repeat(NamedTuple):
    """The results of both sides in one repeat."""

    ours: SideResult
    naive: SideResult


def write_settings(seed: int, trials: int, pruner: str) -> None:
    """Write params.yaml of the demo, and the variants, to the current folder."""
    yaml = YAML()
    values = yaml.load((ROOT / "params.yaml").read_text())
    values["data"]["dataset"] = "digits"
    values["data"]["distortion"] |= {"rotation": 90, "scale": [0.3, 1.0], "shift": 0.3}
    values["prepare"]["validation"] = 0.2
    values["tune"] |= {"seed": seed, "trials": trials, "pruner": pruner}
    yaml.dump(values, Path("params.yaml"))
    Path("variants").mkdir(exist_ok=True)
    for variant in ("plain", BASELINE):
        Path(f"variants/{variant}.yaml").write_text((ROOT / f"variants/{variant}.yaml").read_text())


def load_setup() -> TuningSetup:
    """Load the settings, the baseline and the prepared data of the current folder."""
    return TuningSetup(load_params(), load_variant(BASELINE), load_meta())


def open_study_of(setup: TuningSetup) -> AbstractContextManager[optuna.Study]:
    """Open the study of these settings."""
    return open_study(study_name(setup.params, setup.baseline, setup.meta)[0], setup.params.tune)


def search() -> None:
    """Run all trials with the search of the stage tune, in this process."""
    setup = load_setup()
    with open_study_of(setup) as study, Outbox(connect(), study.study_name) as outbox, connected():
        runs = StudyRuns(outbox, study.study_name, setup)
        enqueue_baseline(study, setup)
        pool, heartbeat = start_workers(study, setup), Heartbeat(study)
        runs.parent.start()
        run_trials(study, setup, runs, pool, heartbeat)
        runs.parent.end("FINISHED")


def run_naive_trial() -> None:
    """Run one trial in this process."""
    setup = load_setup()
    with open_study_of(setup) as study:
        trial, variant = ask_trial(study, setup)
        study.tell(trial, train(setup, variant, trial_recipe(setup.params), setup.params.tune.seed))


def train(setup: TuningSetup, variant: VariantParams, settings: RecipeParams, seed: int) -> float:
    """Train a variant on all cores; return its validation accuracy."""
    device = default_device()
    recipe = recipe_of(settings, variant)
    data = make_training_data(load_training(), setup.meta, recipe, device)
    make_network = setup.meta.network_builder(variant, settings.dropout)
    precision = measure_precision(recipe, make_network, data)
    trainer = Trainer(make_network, recipe, data, seed, precision=precision.torch_dtype)
    while trainer.done < trainer.epochs:
        trainer.train_epoch()
    return trainer.history[-1]["validation_accuracy"]


def run_side(side: str) -> None:
    """Run this script for one side in a new process."""
    command = [sys.executable, "-m", "benchmarks.tuning", "--side", side]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)})


def train_best() -> tuple[int, float]:
    """Return the number of finished trials of the current folder's study, and the accuracy of its best trial.

    The best trial is trained at full length.
    """
    setup = load_setup()
    with open_study_of(setup) as study:
        count, best = len(finished_trials(study)), study.best_trial
    is_baseline = BASELINE_TRIAL in best.user_attrs
    variant = setup.baseline if is_baseline else to_variant(best.params, setup.baseline.classifier)
    return count, train(setup, variant, setup.params.train, setup.params.tune.final_seeds[0])


def measure(number: int, trials: int) -> Repeat:
    """Run both sides once, with ``number`` as the seed."""
    results: list[SideResult] = []
    limit = 0.0
    for side, pruner in (("ours", "median"), ("naive", "none")):
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            os.environ["DVC_ROOT"] = folder
            write_settings(number, trials, pruner)
            params = load_params()
            prepare_source(params.data, params.prepare)
            started = time.perf_counter()
            run_side(side)
            while side == "naive" and time.perf_counter() - started < limit:
                run_side(side)
            seconds = time.perf_counter() - started
            if side == "ours":
                limit = seconds
            count, accuracy = train_best()
            results.append(SideResult(3600 * count / seconds, accuracy))
            os.chdir(ROOT)
    return Repeat(*results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--side", choices=("ours", "naive"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        search() if arguments.side == "ours" else run_naive_trial()
        return
    os.environ.pop("OPTUNA_STORAGE", None)  # each side of each repeat has its own study
    repeats = []
    for number in range(arguments.repeats):
        repeats.append(measure(number, arguments.trials))
        print(json.dumps({side: result._asdict() for side, result in repeats[-1]._asdict().items()}), flush=True)
    metrics = {
        "ours / naive, trials/h": [repeat.ours.trials_per_hour / repeat.naive.trials_per_hour for repeat in repeats],
        "best at full length, ours − naive, points of validation accuracy": [
            100 * (repeat.ours.accuracy - repeat.naive.accuracy) for repeat in repeats
        ],
    }
    report("tuning", metrics)


if __name__ == "__main__":
    run_main(main)
