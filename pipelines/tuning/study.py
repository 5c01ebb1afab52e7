"""Optuna study: its storage, which trials count, and recovery after a killed driver.

Optuna's own recovery by heartbeats does not cover studies that use ``ask`` and ``tell``.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from pipelines.runtime import environment
from pipelines.runtime.errors import ExternalError, UserError, first_line
from pipelines.runtime.home import state_dir
from pipelines.runtime.locks import hold_lock
from pipelines.settings.params import TuneParams
from pipelines.tuning.heartbeat import clear_heartbeat, take_over

MAX_RETRIES = 2
# Attributes of a trial.
BASELINE_TRIAL = "baseline"  # set on the trial of variants/stn.yaml
REJECTED = "rejected"  # why its network cannot be trained
FAILURE = "failure"  # why it failed
ENQUEUED = "enqueued"  # values that it must try
RETRY_OF = "retry_of"  # number of the trial that it repeats, which was orphaned or lost its worker
RETRIES = "retries"  # number of such trials before it with the same values
OVERHEAD = "overhead_seconds"  # time outside training

optuna.logging.set_verbosity(optuna.logging.WARNING)


def location(name: str) -> str:
    """Storage of the study ``name``: OPTUNA_STORAGE if set, else the path of a journal in the state folder."""
    return environment.get("OPTUNA_STORAGE") or str(state_dir("tuning") / f"{name}.log")


@contextmanager
def open_study(name: str, settings: TuneParams) -> Iterator[optuna.Study]:
    """Open the study ``name``, or create it, for this process alone. If another driver runs it, wait for its end.

    Raises:
        ExternalError: the storage does not answer or is damaged.
        UserError: OPTUNA_STORAGE is not the address of a database.
    """
    with hold_lock(name):
        try:
            study = optuna.create_study(
                study_name=name, storage=_storage(name), direction="maximize", load_if_exists=True,
                pruner=_pruner(settings),
            )  # fmt: skip
        except (ValueError, LookupError, TypeError) as error:  # raised for a journal line that Optuna did not write
            raise ExternalError(
                f"{location(name)}: damaged ({error}); move it away to start the study again: the results of its "
                f"trials stay in MLflow"
            ) from None
        try:
            take_over(study, shared=bool(environment.get("OPTUNA_STORAGE")))
            # With the seed of the first start, a resumed sampler would draw the same values again.
            study.sampler = _sampler(settings, settings.seed + len(study.trials))
            yield study
        except (sqlalchemy.exc.DatabaseError, optuna.exceptions.StorageInternalError) as error:
            reason = first_line(getattr(error, "orig", error))
            raise ExternalError(f"OPTUNA_STORAGE: the database does not answer ({reason}); the study is kept") from None
        finally:
            # An error here must not hide the one that ended the block.
            with suppress(sqlalchemy.exc.DatabaseError, optuna.exceptions.StorageInternalError, OSError):
                clear_heartbeat(study)


def recover_orphans(study: optuna.Study) -> Iterator[FrozenTrial]:
    """Mark trials that a killed driver left running as failed; re-enqueue each at most ``MAX_RETRIES`` times.

    Yields each trial before it is marked. After a kill at any point, the next call completes the recovery.
    """
    retried = _retried(study)
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        if REJECTED in trial.user_attrs:  # killed between the two steps of reject_trial
            study.tell(trial.number, state=TrialState.FAIL)
            continue
        if trial.number not in retried:
            retry_trial(study, trial)
        yield trial
        study.tell(trial.number, state=TrialState.FAIL)


def retry_trial(study: optuna.Study, trial: FrozenTrial | optuna.Trial) -> bool:
    """Enqueue the values of a trial once more; the trial itself does not count then. Returns whether that was done.

    It is not done if they have been tried ``MAX_RETRIES`` times before.
    """
    retries = trial.user_attrs.get(RETRIES, 0)
    if retries == MAX_RETRIES:
        return False
    kept = {BASELINE_TRIAL: True} if BASELINE_TRIAL in trial.user_attrs else {}
    values = trial.user_attrs.get(ENQUEUED, {}) | trial.params
    enqueue_trial(study, values, {RETRY_OF: trial.number, RETRIES: retries + 1, **kept})
    return True


def enqueue_trial(study: optuna.Study, values: dict[str, Any], attributes: dict[str, Any]) -> None:
    """Enqueue a trial that must try these values.

    The values are kept as an attribute too: a kill before they are suggested does not lose them.
    """
    study.enqueue_trial(values, user_attrs={**attributes, ENQUEUED: values})


def reject_trial(study: optuna.Study, trial: optuna.Trial, reason: str) -> None:
    """Fail a trial whose network cannot be trained; it does not count."""
    trial.set_user_attr(REJECTED, reason)
    study.tell(trial, state=TrialState.FAIL)


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Finished trials that ``tune.trials`` counts: all but rejected ones and those that are retried."""
    retried = _retried(study)
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and REJECTED not in trial.user_attrs and trial.number not in retried
    ]


def count_remaining(study: optuna.Study, settings: TuneParams) -> int:
    """Number of trials that still have to finish, negative if ``tune.trials`` was lowered."""
    return settings.trials - len(finished_trials(study))


def failure_reason(trial: FrozenTrial) -> str:
    """Why a trial failed."""
    return trial.user_attrs.get(FAILURE, "its driver was killed")


def _retried(study: optuna.Study) -> set[int]:
    """Numbers of the trials that another trial repeats."""
    attributes = (trial.user_attrs for trial in study.get_trials(deepcopy=False))
    return {attrs[RETRY_OF] for attrs in attributes if RETRY_OF in attrs}


def _storage(name: str) -> BaseStorage:
    place = location(name)
    if environment.get("OPTUNA_STORAGE"):
        try:
            return RDBStorage(place, engine_kwargs={"pool_pre_ping": True})
        except RuntimeError as error:  # the tables are those of another version, or of another program
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"OPTUNA_STORAGE: Optuna cannot use this database ({reason}); give it one of its own, that MLflow "
                f"does not use"
            ) from None
        except (sqlalchemy.exc.ArgumentError, ImportError, ValueError) as error:
            # The address may contain a password: the message does not repeat it.
            raise UserError(f"OPTUNA_STORAGE: not the address of a supported database: {error}") from None
        except sqlalchemy.exc.DatabaseError as error:
            reason = str(error.orig).partition("\n")[0]
            raise ExternalError(f"OPTUNA_STORAGE: the database does not answer: {reason}") from None
    # No other process uses the study: a lock and an incomplete last line are left over from a killed driver. Network
    # file systems may leave blank lines or zeros after it.
    for left in state_dir("tuning").glob(f"{name}.log.lock*"):
        left.unlink()
    with Path(place).open("ab+") as journal:
        journal.seek(0)
        whole = journal.read()
        end = len(whole[: whole.rfind(b"\n") + 1].rstrip(b"\n\0"))
        journal.truncate(end + 1 if end else 0)
    return JournalStorage(JournalFileBackend(place))


def _sampler(settings: TuneParams, seed: int) -> optuna.samplers.BaseSampler:
    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    # group: settings that occur together, such as those of a second layer, get a model of their own.
    startup = max(4, min(10, settings.trials // 3))
    with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, group=True)


def _pruner(settings: TuneParams) -> optuna.pruners.BasePruner:
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=4)
    if settings.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(max_resource=settings.epochs)
    return optuna.pruners.NopPruner()
