"""Task loop with trials and finalists on scripted workers: order of effects, pruning, failures and resume."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from ray.exceptions import RayActorError, RayError, RayTaskError

from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.outputs.tuning_results import TuningResults
from pipelines.runtime.errors import ExternalError
from pipelines.settings.params import Params, RecipeParams, load_params
from pipelines.settings.variants import BASELINE, TUNED, load_settings, load_variant, variant_file
from pipelines.settings.variants import VariantParams as Variant
from pipelines.training.precision import Precision
from pipelines.tuning import heartbeat, runs, trial_pool
from pipelines.tuning.final_training import train_finalists
from pipelines.tuning.finalists import Finals
from pipelines.tuning.heartbeat import Heartbeat
from pipelines.tuning.setup import TuningSetup
from pipelines.tuning.study import FAILURE, OVERHEAD, RETRY_OF, finished_trials, open_study
from pipelines.tuning.study_name import study_name
from pipelines.tuning.trial_pool import Pool
from pipelines.tuning.trial_worker import Epoch, Failure, Task
from pipelines.tuning.trials import enqueue_baseline, run_trials
from pipelines.tuning.winner import choose_winner, describe_winner, make_tuned_variant, summarize, write_winner
from stn.training import NotFiniteError

META = DatasetMeta(
    dataset="mine", source="nowhere", classes=["a", "b", "c"], image_shape=(1, 28, 28), counts={}, mean=[0.5],
    std=[0.3], distortion={}, duplicates={}, broken={}, digest="d",
)  # fmt: skip
# What a task ends with: alone, or together with all tasks of its worker.
NOT_FINITE = NotFiniteError("the loss became nan")
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory")
BROKEN = RayTaskError("train_epochs", "", RuntimeError("CUDA error: an illegal memory access"))
LOST = RayActorError()


class Stage:
    """An open study on two scripted workers.

    ``script[key]`` has for each epoch of a task the validation accuracy or the error that the worker answers with; by
    default every accuracy is 0.5. ``events`` records, in order, what happens to workers, MLflow's runs and the study.
    """

    def __init__(self, study: optuna.Study, setup: TuningSetup, patch: pytest.MonkeyPatch):
        self.study, self.setup = study, setup
        self.script: dict[str, list[Any]] = defaultdict(lambda: [0.5] * 100)
        self.events: list[tuple[Any, ...]] = []
        self.workers = 0
        self.trained: dict[str, int] = defaultdict(int)
        self.together: list[set[str]] = []  # the keys of the tasks of each call of a worker
        self.logged: list[dict[str, Any]] = []
        self._replace_ray(patch)
        self._replace_mlflow(patch)
        for name in ("tell", "set_user_attr"):
            patch.setattr(study, name, self._recorded(name, getattr(study, name)))
        self.runs = runs.StudyRuns(SimpleNamespace(client=None), study.study_name, setup)  # pyright: ignore[reportArgumentType]
        enqueue_baseline(study, setup)
        self.finals = Finals(study, setup)

    def _replace_ray(self, patch: pytest.MonkeyPatch) -> None:
        def start(*_) -> SimpleNamespace:
            self.workers += 1
            self.events.append(("worker", self.workers))
            return SimpleNamespace(train_epochs=SimpleNamespace(remote=self._call))

        def get(answer: list) -> list:
            for error in answer:
                if isinstance(error, RayError):
                    raise error
            return answer

        ray = SimpleNamespace(
            put=lambda value: value, kill=lambda _: self.events.append(("kill",)),
            get=lambda answer: get(self.answers[answer]), wait=lambda waiting, **_: (waiting[:1], waiting[1:]),
        )  # fmt: skip
        patch.setattr(trial_pool, "ray", ray)
        patch.setattr(trial_pool, "RemoteWorker", SimpleNamespace(options=lambda **_: SimpleNamespace(remote=start)))
        share = 0.25 if self.setup.params.tune.trials_at_once > 1 else 0.0  # a GPU, or a CPU
        patch.setattr(trial_pool, "room_for_trials", lambda *_: (2, share, 1))
        self.answers: list[list[Any]] = []

    def _call(self, tasks: list[Task], _precision: Precision) -> int:
        self.together.append({task.key for task in tasks})
        self.answers.append([self._answer(task) for task in tasks])
        return len(self.answers) - 1

    def _answer(self, task: Task) -> Epoch | Failure | RayError:
        self.trained[task.key] += 1
        epoch = self.trained[task.key]
        self.events.append(("train", task.key, epoch))
        answer = self.script[task.key][epoch - 1]
        if isinstance(answer, RayError):
            return answer
        if isinstance(answer, Exception):
            return Failure.of(answer)
        return Epoch({"epoch": epoch, "validation_accuracy": answer}, 0.0)

    def _replace_mlflow(self, patch: pytest.MonkeyPatch) -> None:
        stage = self

        class Run:
            def __init__(self, _outbox, _experiment, key: str):
                self.key = key.partition("/")[2]

            def open(self, name: str, parent: str) -> None:
                assert parent == "parent"
                stage.events.append(("open", self.key, name))

            def describe(self, params=None, tags=None) -> None:
                stage.events.extend(("tag", self.key, *tag) for tag in (tags or {}).items())

            def log_epoch(self, metrics: dict[str, float]) -> None:
                stage.events.append(("log", self.key, metrics["epoch"]))

            def status(self, status: str) -> None:
                stage.events.append(("status", self.key, status))

        def parent(*_) -> SimpleNamespace:
            return SimpleNamespace(run_id="parent", describe_now=lambda *values: stage.logged.extend(values[:2]))

        patch.setattr(runs, "Run", Run)
        patch.setattr(runs, "TrainingRun", parent)
        patch.setattr(runs, "experiment_id", lambda *_: "1")

    def _recorded(self, name: str, method: Callable) -> Callable:
        def call(*arguments, **options) -> Any:
            first = arguments[0]
            self.events.append((name, str(getattr(first, "number", first))))
            return method(*arguments, **options)

        return call

    def make_pool(self) -> Pool:
        return Pool(self.setup.params.tune, 100, None, None)  # pyright: ignore[reportArgumentType]

    def search(self) -> None:
        run_trials(self.study, self.setup, self.runs, self.make_pool(), Heartbeat(self.study))

    def train_finalists(self) -> None:
        train_finalists(self.finals, self.runs, self.make_pool(), Heartbeat(self.study))

    def of(self, key: str) -> list[tuple[Any, ...]]:
        """Events of one trial or finalist, in order."""
        return [(name, *rest) for name, *rest in self.events if rest[:1] == [key] or rest[:1] == [f"trial-{key}"]]


def settings(**tune: Any) -> Params:
    """Settings of a study of three trials of two epochs, with one finalist beside the baseline."""
    params = load_params()
    space = params.tune.search_space
    space = space.model_copy(update={"kernel_size": [3], "layers": [1], "downsample": [1]})
    changes = {
        "trials": 3, "epochs": 2, "finalists": 1, "final_seeds": [1000], "pruner": "none", "max_parameters": "none",
        "search_space": space,
    }  # fmt: skip
    return params.model_copy(
        update={
            "tune": params.tune.model_copy(update=changes | tune),
            "train": params.train.model_copy(update={"epochs": 3}),
        }
    )


@pytest.fixture
def make_stage(tmp_path, monkeypatch) -> Iterator[Callable[..., Stage]]:
    """Makes the stage of one study; a second call resumes the study with other settings."""
    baseline = load_variant(BASELINE)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    with pytest.MonkeyPatch.context() as patch:
        opened = []

        def make(**tune: Any) -> Stage:
            while opened:
                opened.pop().__exit__(None, None, None)
            patch.undo()
            params = settings(**tune)
            opened.append(open_study("s", params.tune))
            return Stage(opened[-1].__enter__(), TuningSetup(params, baseline, META), patch)

        yield make
        while opened:
            opened.pop().__exit__(None, None, None)


def states(stage: Stage) -> list[TrialState]:
    return [trial.state for trial in stage.study.trials]


def test_mlflow_is_updated_before_the_study_and_the_worker_before_both(make_stage):
    stage = make_stage(trials=1)
    stage.script["0"] = [0.3, 0.6]
    stage.search()
    assert stage.of("0") == [
        ("train", "0", 1), ("open", "trial-0", "trial-0"), ("status", "trial-0", "RUNNING"),
        ("train", "0", 2), ("log", "trial-0", 1), ("log", "trial-0", 2), ("tag", "trial-0", "state", "finished"),
        ("status", "trial-0", "FINISHED"), ("tell", "0"),
    ]  # fmt: skip
    (trial,) = stage.study.trials
    assert trial.value == 0.6 and trial.intermediate_values == {1: 0.3, 2: 0.6} and trial.user_attrs[OVERHEAD] > 0
    assert trial.params == stage.setup.baseline_values, "the first trial is the baseline network"


def test_workers_are_reused_and_no_trial_too_many_is_started(make_stage):
    stage = make_stage(trials=5)
    stage.search()
    assert stage.workers == 2 and states(stage) == [TrialState.COMPLETE] * 5
    assert stage.events[2:6] == [
        ("train", "0", 1), ("train", "1", 1), ("open", "trial-0", "trial-0"), ("status", "trial-0", "RUNNING"),
    ]  # fmt: skip
    assert all(count == 2 for count in stage.trained.values())


def test_a_resumed_study_runs_only_the_missing_trials(make_stage):
    make_stage(trials=2).search()
    stage = make_stage(trials=5)
    stage.search()
    assert list(stage.trained) == ["2", "3", "4"]
    lowered = make_stage(trials=3)
    lowered.search()
    assert not lowered.trained


def test_a_pruned_trial_ends_early_and_frees_its_worker(make_stage):
    stage = make_stage(trials=4)
    stage.study.pruner = optuna.pruners.ThresholdPruner(lower=0.2)
    stage.script["1"] = [0.1, 0.9]
    stage.script["2"] = [0.3, 0.1]  # the last epoch is a result, never pruned
    stage.search()
    assert states(stage) == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE, TrialState.COMPLETE]
    assert stage.trained["1"] == 1 and stage.workers == 2
    assert stage.of("1")[-3:] == [
        ("tag", "trial-1", "state", "pruned"),
        ("status", "trial-1", "FINISHED"),
        ("tell", "1"),
    ]


def test_a_failed_trial_counts_and_its_worker_goes_on(make_stage):
    stage = make_stage(trials=4)
    stage.script["1"] = [0.5, NOT_FINITE]
    stage.search()
    assert states(stage) == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    reason = "NotFiniteError: the loss became nan"
    assert stage.study.trials[1].user_attrs[FAILURE] == reason and len(finished_trials(stage.study)) == 4
    assert stage.of("1")[-4:] == [
        ("tag", "trial-1", "state", "failed"), ("tag", "trial-1", "reason", reason), ("status", "trial-1", "FAILED"),
        ("tell", "1"),
    ]  # fmt: skip
    assert stage.workers == 2 and ("kill",) not in stage.events


def test_after_an_unknown_error_the_worker_is_replaced(make_stage):
    stage = make_stage(trials=4)
    stage.script["1"] = [BROKEN]
    stage.search()
    assert stage.events.count(("kill",)) == 1 and stage.workers == 3
    assert states(stage).count(TrialState.COMPLETE) == 3


def test_the_trial_of_a_lost_worker_fails_and_the_others_go_on(make_stage):
    stage = make_stage(trials=4)
    stage.script["1"] = [LOST]
    stage.search()
    assert stage.workers == 3 and states(stage).count(TrialState.COMPLETE) == 3
    assert stage.study.trials[1].user_attrs[FAILURE].startswith("its worker died: The actor experienced an error")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (NOT_FINITE, r"all 2 trials failed; the first: NotFiniteError.*fix the cause and raise tune\.trials"),
        (OUT_OF_MEMORY, r"all 2 trials failed; the first: OutOfMemoryError.*lower train\.batch_size"),
    ],
)
def test_without_a_successful_trial_the_stage_stops(error, message, make_stage):
    stage = make_stage(trials=2)
    stage.script.update({"0": [error], "1": [NOT_FINITE]})
    with pytest.raises(ExternalError, match=message):
        stage.search()
    assert stage.workers == 2 and ("kill",) not in stage.events, "these errors leave a worker intact"


def test_a_worker_trains_several_trials_and_takes_the_next_when_one_has_ended(make_stage):
    stage = make_stage(trials=7, trials_at_once=2)
    stage.study.pruner = optuna.pruners.ThresholdPruner(lower=0.2)
    stage.script.update({"0": [0.1], "1": [0.5, NOT_FINITE]})
    stage.search()
    assert stage.workers == 2 and stage.together[:2] == [{"0", "2"}, {"1", "3"}], "workers are filled evenly"
    assert stage.together[2:4] == [{"2", "4"}, {"1", "3"}], "the pruned trial has made room"
    assert max(map(len, stage.together)) == 2
    assert states(stage) == [TrialState.PRUNED, TrialState.FAIL, *[TrialState.COMPLETE] * 5]
    assert sum(stage.trained.values()) == 1 + 2 + 5 * 2, "no epoch is trained twice"


@pytest.mark.parametrize("error", [BROKEN, LOST])
def test_the_trials_of_a_lost_worker_are_tried_again_one_at_a_time(error, make_stage):
    stage = make_stage(trials=6, trials_at_once=2)
    stage.script["1"] = [0.5, error]
    stage.search()
    retries = {trial.user_attrs[RETRY_OF]: trial for trial in stage.study.trials if RETRY_OF in trial.user_attrs}
    assert retries.keys() == {1, 3} and stage.workers == 3
    assert [trial.number for trial in stage.study.trials if trial.state == TrialState.FAIL] == [1, 3]
    for number, again in retries.items():
        assert again.params == stage.study.trials[number].params and again.state == TrialState.COMPLETE
    assert len(finished_trials(stage.study)) == 6 and len(stage.study.trials) == 8
    for again in retries.values():
        assert [tasks for tasks in stage.together if str(again.number) in tasks] == [{str(again.number)}] * 2
    assert stage.events.count(("kill",)) == (error is BROKEN)


def test_a_finalist_that_breaks_its_worker_is_found_out_alone(make_stage):
    stage = make_stage(trials_at_once=2, final_seeds=[7, 8])
    stage.script["1"] = [0.5, 0.9]
    stage.search()
    stage.script["final trial-1 3 7"] = [0.5, BROKEN, BROKEN]  # beside another, and then alone in its first epoch
    stage.train_finalists()
    assert not stage.finals.remaining() and stage.finals.scores() == {"stn": 0.5}
    assert stage.events.count(("kill",)) == 2
    reasons = [value.get("reason") for name, value in stage.study.user_attrs.items() if name.startswith("final trial")]
    assert sorted(map(str, reasons)) == ["None", "RuntimeError: CUDA error: an illegal memory access"]


def test_a_result_that_came_with_a_failure_of_the_baseline_is_kept(make_stage):
    stage = make_stage(trials_at_once=3, final_seeds=[7, 8])
    stage.search()
    stage.script["final stn 3 7"] = [0.5, 0.5, NOT_FINITE]
    with pytest.raises(ExternalError, match="stn could not be trained: NotFiniteError"):
        stage.train_finalists()
    (first, *_) = [tasks for tasks in stage.together if "final stn 3 7" in tasks]
    assert len(first) == 2, "another final ends in the same call"
    left = {stage.finals.key(final) for final in stage.finals.remaining()}
    assert "final stn 3 7" in left and not (first - {"final stn 3 7"}) & left


def test_a_worker_that_was_started_without_gpus_trains_one_trial_at_a_time(make_stage, monkeypatch):
    """A cluster may get its first GPU after workers have started on CPUs."""
    stage = make_stage(trials=8, trials_at_once=3)
    monkeypatch.setattr(trial_pool, "room_for_trials", lambda *_: (1, 0.0, 1))
    pool = stage.make_pool()
    assert pool.size == 1
    monkeypatch.setattr(trial_pool, "room_for_trials", lambda *_: (2, 0.75, 1))
    pool._start_workers()
    assert pool.size == 4
    run_trials(stage.study, stage.setup, stage.runs, pool, Heartbeat(stage.study))
    assert {len(tasks) for tasks in stage.together} >= {1, 3} and "0" in stage.together[0]
    assert all(len(tasks) == 1 for tasks in stage.together if "0" in tasks)


def test_a_displaced_driver_stops(make_stage, monkeypatch):
    stage = make_stage(trials=3)
    monkeypatch.setattr(heartbeat, "HEARTBEAT_EVERY_S", -1.0)
    other = heartbeat.Driver("elsewhere", 123, 1.0, heartbeat.time.time())
    stage.study.set_user_attr(heartbeat.DRIVER, other._asdict())
    with pytest.raises(ExternalError, match="process 123 on elsewhere"):
        stage.search()
    assert not finished_trials(stage.study)


def test_heartbeats_are_sent_while_trials_run(make_stage, monkeypatch):
    stage = make_stage(trials=3)
    stage.search()
    assert ("set_user_attr", heartbeat.DRIVER) not in stage.events, "not due yet"
    stage = make_stage(trials=6)
    monkeypatch.setattr(heartbeat, "HEARTBEAT_EVERY_S", -1.0)
    stage.search()
    assert stage.events.count(("set_user_attr", heartbeat.DRIVER)) >= 3


def test_finalists_results_are_stored_as_soon_as_they_exist(make_stage):
    stage = make_stage(final_seeds=[7, 8])
    stage.script["1"] = [0.5, 0.9]
    stage.script["final trial-1 3 8"] = [0.1, 0.2, LOST]
    stage.search()
    with pytest.raises(ExternalError, match="trial-1 could not be trained: its worker died"):
        stage.train_finalists()
    key = "final stn 3 7"
    assert stage.of(key) == [
        ("train", key, 1), ("open", key, "final-stn-7"), ("status", key, "RUNNING"), ("train", key, 2), ("log", key, 1),
        ("train", key, 3), ("log", key, 2), ("log", key, 3), ("tag", key, "state", "finished"),
        ("status", key, "FINISHED"), ("set_user_attr", key),
    ]  # fmt: skip
    assert ("status", "final trial-1 3 8", "FAILED") in stage.events

    # A lost worker says nothing about the network: the next start trains it again, and only what has no result.
    again = make_stage(final_seeds=[7, 8])
    assert "final trial-1 3 8" in [again.finals.key(final) for final in again.finals.remaining()]
    again.train_finalists()
    assert again.trained["final trial-1 3 8"] == 3 and "final stn 3 7" not in again.trained
    assert again.finals.scores() == {"stn": 0.5, "trial-1": 0.5} and not again.finals.remaining()


def test_a_finalist_that_fails_is_a_result_and_a_failed_baseline_is_not(make_stage):
    stage = make_stage()
    stage.script["1"] = [0.5, 0.9]
    stage.script["final trial-1 3 1000"] = [0.9, NOT_FINITE]
    stage.search()
    stage.train_finalists()
    assert not stage.finals.remaining() and stage.finals.scores() == {"stn": 0.5}
    stage = make_stage(final_seeds=[1001])
    stage.script["final stn 3 1001"] = [NOT_FINITE]
    with pytest.raises(ExternalError, match="stn could not be trained: NotFiniteError"):
        stage.train_finalists()
    assert "final stn 3 1001" in [stage.finals.key(final) for final in stage.finals.remaining()]


def test_the_winner_is_written_with_the_results(make_stage, tmp_path, monkeypatch):
    stage = make_stage(trials=4)
    stage.study.pruner = optuna.pruners.ThresholdPruner(lower=0.2)
    stage.script.update({"1": [0.5, 0.9], "2": [0.1], "3": [NOT_FINITE], "final trial-1 3 1000": [0.1, 0.2, 0.8]})
    stage.search()
    stage.train_finalists()
    monkeypatch.chdir(tmp_path)
    winner = choose_winner(stage.finals)
    results, comment = summarize(stage.study, winner), describe_winner(stage.study, winner, 3)
    write_winner(make_tuned_variant(stage.study, winner), comment, results)
    assert TuningResults.read() == results
    written = results.to_json()
    overhead = written.pop("overhead_seconds")
    assert overhead > 0 and written == {
        "study": "s", "finished": 2, "pruned": 1, "failed": 1, "finalists": {"stn": 0.5, "trial-1": 0.8},
        "metric": "accuracy", "winner": "trial-1",
    }  # fmt: skip
    tuned = load_settings(variant_file(TUNED), Variant)
    assert tuned.origin is not None and (tuned.origin.study, tuned.origin.trial) == ("s", 1)
    assert tuned.transformer == winner.finalist.variant.transformer
    text = variant_file(TUNED).read_text()
    assert "# Trial 1 of the study s, 90.00% accuracy in its trial:" in text
    assert "# Validation accuracy after 3 epochs: stn 50.00%, trial-1 80.00%." in text


def test_of_equal_finalists_the_baseline_wins(make_stage):
    stage = make_stage()
    stage.search()
    stage.train_finalists()
    winner = choose_winner(stage.finals)
    assert winner.finalist.name == BASELINE and set(winner.scores.values()) == {0.5}
    (first, _) = describe_winner(stage.study, winner, 3)
    assert first == "The baseline network: no trial of the study s was better at full length."


def test_the_studys_run_has_the_recipe_of_a_trial(make_stage):
    params, tags = make_stage().logged
    recipe = {name.split(".")[1] for name in params if name.startswith("train.")}  # a setting may be a section
    assert recipe == RecipeParams.model_fields.keys() - {"epochs"}
    assert params["tune.epochs"] == 2 and "tune.trials" not in params and tags["tune.trials"] == "3"
    assert tags["study"] == "s" and tags["data_digest"] == "d"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"train": {"epochs": 77, "seeds": [5], "final_fit": True, "workers": 3, "threads": 2, "max_failures": 9}}, ""),
        ({"train": {"lr": 0.0123}}, "the recipe of a trial"),
        ({"tune": {"epochs": 5}}, "the recipe of a trial"),
        ({"tune": {"seed": 5}}, "the recipe of a trial"),
        ({"tune": {"trials": 77, "sampler": "random", "pruner": "hyperband", "finalists": 9}}, ""),
        ({"tune": {"max_parameters": 12345}}, "tune.search_space"),
    ],
)
def test_a_study_is_named_after_what_its_trials_are_made_from(change, part):
    before, baseline = settings(), load_variant(BASELINE)
    after = before.model_copy(
        update={name: getattr(before, name).model_copy(update=values) for name, values in change.items()}
    )
    (name, parts), (other, changed) = (study_name(params, baseline, META) for params in (before, after))
    assert {key for key, digest in parts.items() if changed[key] != digest} == ({part} if part else set())
    assert (name == other) == (not part)
