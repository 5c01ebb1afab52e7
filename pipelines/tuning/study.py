"""The Optuna study: where it is kept, who works on it, what counts, and what a killed driver left behind.

Optuna's own recovery, by heartbeats, does not cover ask and tell.
"""

import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import optuna
import psutil
import sqlalchemy.exc
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from pipelines.runtime import environment
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.runtime.home import state_dir
from pipelines.runtime.locks import locked
from pipelines.settings.params import TuneParams

MAX_RETRIES = 2
BASELINE_TRIAL = "baseline"  # marks the trial of variants/stn.yaml
BEAT_EVERY_S = 10.0
DEAD_AFTER_S = 120.0
# Found once: the start of a process moves with the clock.
ME = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}

optuna.logging.set_verbosity(optuna.logging.WARNING)


def location(name: str) -> str:
    """Where the study ``name`` is kept: OPTUNA_STORAGE where set, else a journal of its own in the state's home."""
    return environment.value("OPTUNA_STORAGE") or str(state_dir("tuning") / f"{name}.log")


@contextmanager
def open_study(name: str, settings: TuneParams) -> Iterator[optuna.Study]:
    """The study ``name``, made if missing, for this process alone.

    Raises:
        ExternalError: the storage does not answer, or another driver is at work on the study.
        UserError: OPTUNA_STORAGE is no database's address.
    """
    with locked(name, wait=False):
        try:
            study = optuna.create_study(
                study_name=name, storage=_storage(name), direction="maximize", load_if_exists=True,
                pruner=_pruner(settings),
            )  # fmt: skip
        except (ValueError, LookupError, TypeError) as error:  # of a line in the middle that is not what Optuna wrote
            raise ExternalError(
                f"{location(name)}: damaged ({error}); move it away to begin the study anew: what its trials gave "
                f"stays in MLflow"
            ) from None
        # A resumed sampler with the first start's seed would draw the first start's values again.
        study.sampler = _sampler(settings, settings.seed + len(study.trials))
        try:
            beat(study)
            if environment.value("OPTUNA_STORAGE"):
                time.sleep(1)  # of two that came at the same moment the one that wrote last stays
                beat(study)
            yield study
        except (sqlalchemy.exc.DatabaseError, optuna.exceptions.StorageInternalError) as error:
            reason = str(getattr(error, "orig", error)).partition("\n")[0]
            raise ExternalError(f"OPTUNA_STORAGE: the database does not answer ({reason}); the study is kept") from None
        finally:
            # Must not hide why the block ended.
            with suppress(sqlalchemy.exc.DatabaseError, optuna.exceptions.StorageInternalError, OSError):
                if _is_me(study.user_attrs.get("driver")):
                    study.set_user_attr("driver", None)


def beat(study: optuna.Study) -> None:
    """Tell drivers on other machines that this process is at work on the study; due every BEAT_EVERY_S.

    Raises:
        ExternalError: another driver is at work on it.
    """
    driver = study.user_attrs.get("driver")
    if driver is not None and not _is_me(driver) and _is_alive(driver):
        raise ExternalError(
            f"tune: process {driver['pid']} on {driver['host']} is at work on the study {study.study_name}; wait for "
            f"it, or stop it and try again in {DEAD_AFTER_S:.0f} s"
        )
    study.set_user_attr("driver", {**ME, "time": time.time()})


def _is_me(driver: dict | None) -> bool:
    return driver is not None and driver | ME == driver


def _is_alive(driver: dict) -> bool:
    """Whether a driver that left this mark is still there; of another machine's only its silence tells.

    A mark from the future is one from before the clock was set back: a driver that lives has left another since.
    """
    if driver["host"] == socket.gethostname() and not psutil.pid_exists(driver["pid"]):
        return False
    return abs(time.time() - driver["time"]) <= DEAD_AFTER_S


def recover(study: optuna.Study) -> Iterator[FrozenTrial]:
    """Trials that a killed driver left running are told to have failed, and queued again, at most twice each.

    Yields each before it is told of: killed anywhere within, this does the rest the next time.
    """
    superseded = _superseded(study)
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        if "refused" in trial.user_attrs:  # killed between the two steps of :func:`refuse`
            study.tell(trial.number, state=TrialState.FAIL)
            continue
        retries = trial.user_attrs.get("retries", 0)
        if trial.number not in superseded and retries < MAX_RETRIES:
            kept = {BASELINE_TRIAL: True} if BASELINE_TRIAL in trial.user_attrs else {}
            values = trial.user_attrs.get("queued", {}) | trial.params
            queue(study, values, retry_of=trial.number, retries=retries + 1, **kept)
        yield trial
        study.tell(trial.number, state=TrialState.FAIL)


def queue(study: optuna.Study, values: dict, **attributes) -> None:
    """Have a later trial try these values; it remembers them even where it is killed before they are suggested."""
    study.enqueue_trial(values, user_attrs={**attributes, "queued": values})


def refuse(study: optuna.Study, trial: optuna.Trial, reason: str) -> None:
    """Take a combination out that cannot be trained; it does not count as a trial."""
    trial.set_user_attr("refused", reason)
    study.tell(trial, state=TrialState.FAIL)


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The finished trials that ``tune.trials`` counts: neither refused combinations nor those that are tried again."""
    superseded = _superseded(study)
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and "refused" not in trial.user_attrs and trial.number not in superseded
    ]


def reason(trial: FrozenTrial) -> str:
    """Why a trial failed."""
    return trial.user_attrs.get("reason", "its driver was killed")


def _superseded(study: optuna.Study) -> set[int]:
    attributes = (trial.user_attrs for trial in study.get_trials(deepcopy=False))
    return {attrs["retry_of"] for attrs in attributes if "retry_of" in attrs}


def _storage(name: str) -> BaseStorage:
    place = location(name)
    if environment.value("OPTUNA_STORAGE"):
        try:
            return RDBStorage(place, engine_kwargs={"pool_pre_ping": True})
        except (sqlalchemy.exc.ArgumentError, ImportError, ValueError) as error:
            # The address holds a password: it is not repeated.
            raise UserError(f"OPTUNA_STORAGE: not the address of a database that can be used here: {error}") from None
        except sqlalchemy.exc.DatabaseError as error:
            reason = str(error.orig).partition("\n")[0]
            raise ExternalError(f"OPTUNA_STORAGE: the database does not answer: {reason}") from None
    # This process alone holds the study: what a killed one left is a lock to remove and half a line to cut off.
    for left in state_dir("tuning").glob(f"{name}.log.lock*"):
        left.unlink()
    with Path(place).open("ab+") as journal:
        journal.seek(0)
        journal.truncate(journal.read().rfind(b"\n") + 1)
    return JournalStorage(JournalFileBackend(place))


def _sampler(settings: TuneParams, seed: int) -> optuna.samplers.BaseSampler:
    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    # group: each set of settings that occurs together, such as those of a second layer, has a model of its own.
    startup = max(4, min(10, settings.trials // 3))
    with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, group=True)


def _pruner(settings: TuneParams) -> optuna.pruners.BasePruner:
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=4)
    if settings.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(max_resource=settings.epochs)
    return optuna.pruners.NopPruner()
