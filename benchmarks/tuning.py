"""Claim: the stage tune finishes several times as many trials an hour as the naive way, and its winner is no worse.

The naive way is each trial in a process of its own, one after another, on all cores, never pruned; sampler, search
space, trial budget and data are the same. Both sides run in this one run, alternating: ours until its trials are
finished, the other for as many seconds. Each side's best trial is then trained at full length with a fresh seed.
Everything counts: starting Python, Ray and the workers. Data: scikit-learn's digits, distorted as in the demo.

    python -m benchmarks.tuning --repeats 3 --trials 16
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from ruamel.yaml import YAML

from benchmarks.measure import report
from pipelines.outputs.prepared_data import load_arrays, load_meta
from pipelines.preparation.run import prepare_source
from pipelines.runtime.errors import run
from pipelines.settings.params import Params, load_params
from pipelines.settings.variants import VariantParams, load_variant
from pipelines.tracking.client import connect
from pipelines.tracking.outbox import Outbox
from pipelines.training.cluster import connected
from pipelines.training.trainer import Trainer, make_batches
from pipelines.tuning import search_space, study
from pipelines.tuning.run import study_name
from pipelines.tuning.search import Tuning
from stn.training import choose_precision

ROOT = Path(__file__).resolve().parents[1]


def settings(seed: int, trials: int, pruner: str) -> None:
    """Write params.yaml of the demo, and the variants, into the current folder."""
    yaml = YAML()
    values = yaml.load((ROOT / "params.yaml").read_text())
    values["data"]["dataset"] = "digits"
    values["data"]["distortion"] |= {"rotation": 90, "scale": [0.3, 1.0], "shift": 0.3}
    values["prepare"]["validation"] = 0.2
    values["tune"] |= {"seed": seed, "trials": trials, "pruner": pruner}
    yaml.dump(values, Path("params.yaml"))
    Path("variants").mkdir(exist_ok=True)
    for variant in ("plain", "stn"):
        Path(f"variants/{variant}.yaml").write_text((ROOT / f"variants/{variant}.yaml").read_text())


def opened(params: Params):
    """The study of these settings."""
    return study.open_study(study_name(params, load_variant("stn"), load_meta())[0], params.tune)


def ours() -> None:
    """The stage's search, in this process."""
    params = load_params()
    with opened(params) as one:
        limit = search_space.count_parameters(load_variant("stn"), load_meta())
        with connected(), Outbox(connect(), one.study_name) as delivery:
            tuning = Tuning(one, delivery, params, load_variant("stn"), load_meta(), limit)
            tuning.hire()
            tuning.search()
            tuning.parent.end("FINISHED")


def theirs() -> None:
    """One trial, in this process."""
    params, meta = load_params(), load_meta()
    baseline = load_variant("stn")
    limit = search_space.count_parameters(baseline, meta)
    with opened(params) as one:
        while True:
            trial = one.ask()
            variant = search_space.draw(trial, params.tune.search_space, baseline.classifier)
            if search_space.misfit(variant, meta, limit) is None:
                break
            study.refuse(one, trial, "does not fit")
        one.tell(trial, train(params, variant, params.tune.epochs, params.tune.seed))


def train(params: Params, variant: VariantParams, epochs: int, seed: int) -> float:
    """Validation accuracy after so many epochs on all cores."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe, meta = params.train.model_dump() | {"epochs": epochs}, load_meta()
    precision, _ = choose_precision(params.train.precision, device)
    fit = Trainer(
        recipe, variant.model_dump(), meta, *make_batches(load_arrays(), meta, recipe, device), seed, precision
    )
    while fit.done < epochs:
        fit.epoch()
    return fit.history[-1]["validation_accuracy"]


def side(what: str) -> None:
    """Run this script again for one side, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.tuning", "--side", what]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)})


def best_at_full_length() -> tuple[int, float]:
    """How many trials the current folder's study has finished, and what its best reaches at full length."""
    params = load_params()
    with opened(params) as one:
        count = len(study.finished_trials(one))
        values = one.best_trial.params
        seeds = study.BASELINE_TRIAL in one.best_trial.user_attrs
    baseline = load_variant("stn")
    variant = baseline if seeds else search_space.to_variant(values, baseline.classifier)
    return count, train(params, variant, params.train.epochs, params.tune.final_seeds[0])


def repeat(number: int, trials: int) -> dict[str, float]:
    """Both sides once: trials an hour, and accuracy at full length of each side's best."""
    row = {}
    seconds = 0.0
    for name in ("ours", "theirs"):
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            os.environ["DVC_ROOT"] = folder
            settings(number, trials, "median" if name == "ours" else "none")
            params = load_params()
            prepare_source(params.data, params.prepare)
            started = time.perf_counter()
            side(name)
            while name == "theirs" and time.perf_counter() - started < seconds:
                side(name)
            taken = time.perf_counter() - started
            seconds = taken if name == "ours" else seconds
            count, accuracy = best_at_full_length()
            row |= {f"{name}_trials_per_hour": 3600 * count / taken, f"{name}_accuracy": accuracy}
            os.chdir(ROOT)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        ours() if arguments.side == "ours" else theirs()
        return
    os.environ.pop("OPTUNA_STORAGE", None)  # each side of each repeat has a study of its own
    rows = []
    for number in range(arguments.repeats):
        rows.append(repeat(number, arguments.trials))
        print(json.dumps(rows[-1]), flush=True)
    figures = {
        "trials an hour, ours / theirs": [row["ours_trials_per_hour"] / row["theirs_trials_per_hour"] for row in rows],
        "best at full length, ours − theirs, points of validation accuracy": [
            100 * (row["ours_accuracy"] - row["theirs_accuracy"]) for row in rows
        ],
    }
    report("tuning", figures)


if __name__ == "__main__":
    run(main)
