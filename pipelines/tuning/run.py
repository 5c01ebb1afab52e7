"""The study of params.yaml, from its first trial to variants/tuned.yaml."""

from contextlib import suppress

import optuna

from pipelines.outputs.prepared_data import load_meta
from pipelines.outputs.tuning_results import PICTURES, TuningResults
from pipelines.runtime.files import read_json, write_json
from pipelines.runtime.home import state_dir
from pipelines.runtime.progress import Timeline
from pipelines.settings.params import Params
from pipelines.settings.variants import BASELINE, VariantParams
from pipelines.tracking.client import connect, store_errors_explained
from pipelines.tracking.outbox import Outbox
from pipelines.training.cluster import connected
from pipelines.training.precision import load_precision, store_precision
from pipelines.training.recipe import recipe_of
from pipelines.training.shared_data import share_data
from pipelines.tuning.figures import save_figures, save_note
from pipelines.tuning.final_training import train_finalists
from pipelines.tuning.finalists import Finals
from pipelines.tuning.heartbeat import Heartbeat
from pipelines.tuning.runs import StudyRuns
from pipelines.tuning.search_space import check_space
from pipelines.tuning.setup import TuningSetup, check_setup
from pipelines.tuning.study import (
    count_remaining,
    failure_reason,
    finished_trials,
    open_study,
    recover_orphans,
)
from pipelines.tuning.study_name import study_name
from pipelines.tuning.trial_pool import Pool
from pipelines.tuning.trial_worker import TrialData
from pipelines.tuning.trials import enqueue_baseline, run_trials
from pipelines.tuning.winner import choose_winner, describe_winner, make_tuned_variant, summarize, write_winner


def tune(params: Params, baseline: VariantParams) -> TuningResults:
    """Run the study up to ``tune.trials`` trials, train the best at full length and write the winner.

    Raises:
        UserError: the settings do not fit the data.
        ExternalError: another driver runs the study, or every trial failed; finished work is kept.
    """
    timeline = Timeline()
    timeline.mark("imports")
    setup = TuningSetup(params, baseline, load_meta())
    check_setup(setup)
    if not params.tune.trials:
        results = TuningResults(metric=params.evaluate.metric, winner=BASELINE)
        write_winner(baseline, ["The baseline network: no trials were run (tune.trials: 0)."], results)
        save_note("no trials were run (tune.trials: 0)", PICTURES)
        return results
    check_space(params.tune.search_space, baseline.classifier, setup.meta, setup.max_parameters)
    name, parts = study_name(params, baseline, setup.meta)
    _print_changes(params.data.dataset, name, parts)
    with (
        store_errors_explained("the study is kept"),
        open_study(name, params.tune) as study,
        Outbox(connect(), name) as outbox,
    ):
        runs, finals = StudyRuns(outbox, name, setup), Finals(study, setup)
        _recover(study, runs)
        enqueue_baseline(study, setup)
        try:
            if count_remaining(study, params.tune) > 0 or finals.remaining():
                with connected():
                    pool, heartbeat = start_workers(study, setup), Heartbeat(study)
                    runs.parent.start()
                    timeline.mark("Ray")
                    run_trials(study, setup, runs, pool, heartbeat)
                    timeline.mark("trials")
                    train_finalists(finals, runs, pool, heartbeat)
                    timeline.mark("finalists")
                timeline.mark("end of Ray")
            winner = choose_winner(finals)
            objective = f"validation {winner.metric.label}"
            runs.finish(save_figures(study, objective, PICTURES), winner.scores)
            results, comment = summarize(study, winner), describe_winner(study, winner, params.train.epochs)
            write_winner(make_tuned_variant(study, winner), comment, results)
            timeline.mark("winner")
            print(f"tune: {timeline}", flush=True)
            return results
        except BaseException:
            with suppress(OSError):  # must not hide why the study ended
                runs.parent.end("FAILED")
            raise


def _print_changes(dataset: str, name: str, parts: dict[str, str]) -> None:
    """Print which parts differ from those of the last study of this data set, and keep the new ones."""
    path = state_dir("tuning") / f"{dataset}.json"
    last = read_json(path) if path.exists() else {}
    changed = [part for part in {**parts, **last} if last and last.get(part) != parts.get(part)]
    if changed:
        print(f"tune: {' and '.join(changed)} changed since the last study: this study is {name}", flush=True)
    write_json(path, parts)


def _recover(study: optuna.Study, runs: StudyRuns) -> None:
    """Fail the trials that a killed driver left running, in MLflow and then in the study."""
    for trial in recover_orphans(study):
        print(f"tune: trial {trial.number} was left unfinished when its driver was killed", flush=True)
        run = runs.trial_run(trial)
        run.start()
        run.end("failed", failure_reason(trial))


def start_workers(study: optuna.Study, setup: TuningSetup) -> Pool:
    """Start workers on the connected cluster, as many as it has room for and the study has work for."""
    tune = setup.params.tune
    most = max(count_remaining(study, tune), (tune.finalists + 1) * len(tune.final_seeds))
    recipe = recipe_of(setup.params.train, setup.baseline)
    data = TrialData(setup.meta, share_data(), setup.params.train.residency)
    pool = Pool(tune, most, recipe, data)
    finished = len(finished_trials(study))
    done = f"{finished} of {tune.trials} trials done, {pool.size} at once"
    print(f"tune: {done}; the study is {study.study_name}", flush=True)
    train, digest = setup.params.train, setup.meta.digest
    precision = load_precision(train, digest)
    if precision is None:
        precision = pool.measure_precision(setup.meta.network_builder(setup.baseline, train.dropout))
    if precision is not None:
        store_precision(train, digest, precision)
        pool.precision = precision
    print(f"tune: {pool.precision.dtype}: {pool.precision.reason}", flush=True)
    return pool
