"""The study of params.yaml from its first trial to variants/tuned.yaml."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.outputs.prepared_data import load_meta
from pipelines.runtime.errors import UserError
from pipelines.runtime.files import read_json, write_json
from pipelines.runtime.home import state_dir
from pipelines.runtime.keys import digest_code, key_of
from pipelines.settings.params import Params
from pipelines.settings.variants import BASELINE, VariantParams, variant_file
from pipelines.tracking.client import connect, store_errors_explained
from pipelines.tracking.outbox import Outbox
from pipelines.training.checks import check_trainable
from pipelines.training.cluster import connected
from pipelines.tuning import search_space, study
from pipelines.tuning.search import NO_CONCERN_OF_TRIALS, Tuning
from pipelines.tuning.winner import conclude


def tune(params: Params, baseline: VariantParams) -> dict[str, Any]:
    """Run the study up to ``tune.trials`` trials, train the best at full length, write the winner; returns metrics.

    Raises:
        UserError: the settings do not fit the data.
        ExternalError: another driver holds the study, or every trial failed; what was finished stays.
    """
    meta = load_meta()
    # Validation images choose the winner, so that no trial is trained on them, whatever train.final_fit says.
    split = params.model_copy(update={"train": params.train.model_copy(update={"final_fit": False})})
    check_trainable(BASELINE, split, baseline, meta)
    if baseline.transformer is None:
        raise UserError(f"{variant_file(BASELINE)}: transformer: null given; there is nothing to tune")
    if not params.tune.trials:
        story = ["The baseline network: no trials were run (tune.trials: 0)."]
        nothing = {"finished": 0, "pruned": 0, "failed": 0, "finalists": {}, "winner": BASELINE}
        return conclude(baseline, story, nothing)
    limit = params.tune.max_parameters
    limit = search_space.count_parameters(baseline, meta) if limit == BASELINE else limit
    max_parameters = None if limit == "none" else limit
    search_space.check_space(params.tune.search_space, baseline.classifier, meta, max_parameters)
    name, made_of = study_name(params, baseline, meta)
    _say_what_changed(params.data.dataset, name, made_of)
    with (
        store_errors_explained("the study is kept"),
        study.open_study(name, params.tune) as opened,
        Outbox(connect(), name) as delivery,
    ):
        tuning = Tuning(opened, delivery, params, baseline, meta, max_parameters)
        try:
            if tuning.left() > 0 or tuning.finals.left():
                with connected():
                    tuning.hire()
                    tuning.search()
                    tuning.train_finalists()
            return tuning.choose()
        except BaseException:
            with suppress(OSError):  # must not hide why the study ended
                tuning.parent.end("FAILED")
            raise


def study_name(params: Params, baseline: VariantParams, meta: dict) -> tuple[str, dict[str, str]]:
    """The study's name, and what it is made of: whatever is changed there starts a study of its own."""
    recipe = params.train.model_dump(exclude=NO_CONCERN_OF_TRIALS)
    made_of = {
        "tune.search_space": key_of(params.tune.search_space.model_dump(), params.tune.max_parameters),
        "the recipe of a trial": key_of(recipe, params.tune.epochs, params.tune.seed),
        str(variant_file(BASELINE)): key_of(baseline.model_dump()),
        "the prepared data": meta["digest"],
        "the code of a trial": digest_code("stn", "pipelines/networks", "pipelines/training/trainer.py"),
    }
    return f"stn-{meta['dataset']}-{key_of(made_of)}", made_of


def _say_what_changed(dataset: str, name: str, made_of: dict[str, str]) -> None:
    path = state_dir("tuning") / f"{dataset}.json"
    last = read_json(path) if path.exists() else {}
    changed = [part for part, digest in made_of.items() if last and last.get(part) != digest]
    if changed:
        print(f"tune: {' and '.join(changed)} changed: the study is {name}, other than the last one", flush=True)
    write_json(path, made_of)


def dashboard_config(params: Params, baseline: VariantParams) -> str:
    """The study of params.yaml as optuna-dashboard's configuration file.

    Raises:
        UserError: there is no such study yet.
    """
    place = study.location(study_name(params, baseline, load_meta())[0])
    if "://" not in place and not Path(place).exists():
        raise UserError(f"{place}: there is no such study yet; run: make tune")
    return f"[optuna_dashboard]\nstorage = {json.dumps(place)}"
