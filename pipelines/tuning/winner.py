"""Winner of a study: the best finalist, written to variants/tuned.yaml."""

import statistics
from collections.abc import Mapping
from io import StringIO
from typing import NamedTuple

import optuna
from optuna.trial import TrialState
from ruamel.yaml import YAML

from pipelines.outputs.tuning_results import PICTURES, TuningResults
from pipelines.runtime.files import write_text
from pipelines.settings.metric import Metric
from pipelines.settings.variants import TUNED, Origin, VariantParams, variant_file
from pipelines.tuning.finalists import Finalist, Finals
from pipelines.tuning.study import OVERHEAD, finished_trials


class Winner(NamedTuple):
    """The best finalist, and the mean of the metric on validation of all finalists by their names."""

    finalist: Finalist
    scores: Mapping[str, float]
    metric: Metric


def choose_winner(finals: Finals) -> Winner:
    """Choose the finalist with the best mean score; of equal ones the first, and the baseline comes first."""
    finalists = {finalist.name: finalist for finalist in finals.finalists()}
    scores = finals.scores()
    best = max(scores, key=lambda name: scores[name])
    return Winner(finalists[best], scores, finals.setup.params.evaluate.metric)


def summarize(study: optuna.Study, winner: Winner) -> TuningResults:
    """Results of a study whose trials and finalists are finished."""
    trials = finished_trials(study)
    count = {state: sum(trial.state == state for trial in trials) for state in TrialState}
    return TuningResults(
        study=study.study_name, finished=count[TrialState.COMPLETE], pruned=count[TrialState.PRUNED],
        failed=count[TrialState.FAIL],
        overhead_seconds=statistics.median(
            trial.user_attrs[OVERHEAD] for trial in trials if OVERHEAD in trial.user_attrs
        ),
        finalists=winner.scores, metric=winner.metric, winner=winner.finalist.name,
    )  # fmt: skip


def describe_winner(study: optuna.Study, winner: Winner, epochs: int) -> list[str]:
    """Describe in lines of text where the winner comes from; ``epochs`` is the length of the finalists' training."""
    number = winner.finalist.trial
    if number is None:
        lines = [f"The baseline network: no trial of the study {study.study_name} was better at full length."]
    else:
        trial = study.trials[number]
        lines = [
            f"Trial {number} of the study {study.study_name}, {trial.value:.2%} {winner.metric.label} in its trial:"
        ]
        lines += [f"  {name}: {value}" for name, value in trial.params.items()]
    scores = ", ".join(f"{name} {value:.2%}" for name, value in winner.scores.items())
    return [*lines, f"Validation {winner.metric.label} after {epochs} epochs: {scores}."]


def make_tuned_variant(study: optuna.Study, winner: Winner) -> VariantParams:
    """The winner's variant, with the study and trial that it comes from."""
    origin = Origin(study=study.study_name, trial=winner.finalist.trial)
    return winner.finalist.variant.model_copy(update={"origin": origin})


def write_winner(variant: VariantParams, comment: list[str], results: TuningResults) -> None:
    """Write variants/tuned.yaml with ``comment`` above it, and the results."""
    yaml, text = YAML(), StringIO()
    yaml.default_flow_style = None  # lists in one line, mappings not
    yaml.dump(variant.model_dump(), text)
    lines = ["Written by the stage tune; edit the section tune of params.yaml, not this file.", *comment]
    write_text(variant_file(TUNED), "".join(f"# {line}\n" for line in lines) + text.getvalue())
    PICTURES.mkdir(parents=True, exist_ok=True)
    results.write()
