"""Heartbeat of the driver that runs a study, kept in the study: a second driver on another machine waits for its end.

On one machine a lock does the same, see :func:`pipelines.tuning.study.open_study`.
"""

import os
import socket
import time
from typing import Any, NamedTuple

import optuna
import psutil

from pipelines.runtime.errors import ExternalError

HEARTBEAT_EVERY_S = 10.0
LOOK_EVERY_S = 5.0
DEAD_AFTER_S = 120.0
DRIVER = "driver"  # the study's attribute


class Driver(NamedTuple):
    """A process that runs a study, and the time of its last heartbeat, in seconds since the epoch.

    ``started`` is the time at which the process started. It distinguishes drivers that have the same process id.
    """

    host: str
    pid: int
    started: float
    time: float

    def is_this_process(self) -> bool:
        """Whether this process sent the heartbeat."""
        return self[:3] == THIS_PROCESS

    def is_alive(self) -> bool:
        """Whether the driver still runs. On another machine only the age of its heartbeat shows that.

        If a heartbeat is in the future, the clock was set back. A live driver has sent a new one since then.
        """
        if self.host == socket.gethostname() and not psutil.pid_exists(self.pid):
            return False
        return abs(time.time() - self.time) <= DEAD_AFTER_S


# Read once: the start time of a process moves when the clock is set.
THIS_PROCESS = (socket.gethostname(), os.getpid(), psutil.Process().create_time())


def take_over(study: optuna.Study, shared: bool) -> None:
    """Wait until no other driver runs the study, and mark it as run by this process.

    Args:
        shared: whether drivers on other machines use the study's storage. If two start at the same moment, the one that
            wrote last keeps the study, and the other one waits.
    """
    printed = False
    while True:
        while (driver := _current_driver(study)) is not None and not driver.is_this_process() and driver.is_alive():
            if not printed:
                print(
                    f"tune: process {driver.pid} on {driver.host} is running the study {study.study_name}; waiting "
                    f"for it to finish",
                    flush=True,
                )
                printed = True
            time.sleep(LOOK_EVERY_S)
        _mark(study)
        if not shared:
            return
        time.sleep(1)
        driver = _current_driver(study)
        if driver is not None and driver.is_this_process():
            return


def send_heartbeat(study: optuna.Study) -> None:
    """Mark the study as run by this process; due every ``HEARTBEAT_EVERY_S``.

    Raises:
        ExternalError: another driver runs it.
    """
    driver = _current_driver(study)
    if driver is not None and not driver.is_this_process() and driver.is_alive():
        raise ExternalError(
            f"tune: process {driver.pid} on {driver.host} is running the study {study.study_name}; wait for it, or "
            f"stop it and try again in {DEAD_AFTER_S:.0f} s"
        )
    _mark(study)


def _mark(study: optuna.Study) -> None:
    study.set_user_attr(DRIVER, Driver(*THIS_PROCESS, time.time())._asdict())


def clear_heartbeat(study: optuna.Study) -> None:
    """Remove this process's mark from the study; the mark of another driver stays."""
    driver = _current_driver(study)
    if driver is not None and driver.is_this_process():
        study.set_user_attr(DRIVER, None)


def _current_driver(study: optuna.Study) -> Driver | None:
    mark: dict[str, Any] | None = study.user_attrs.get(DRIVER)
    return None if mark is None else Driver(**mark)


class Heartbeat:
    """Sends the heartbeats of this process while it runs an open study."""

    def __init__(self, study: optuna.Study):
        self.study, self.last = study, time.monotonic()

    def send_if_due(self) -> None:
        """Send a heartbeat if the last one is older than ``HEARTBEAT_EVERY_S``.

        Raises:
            ExternalError: another driver runs the study.
        """
        if time.monotonic() - self.last > HEARTBEAT_EVERY_S:
            send_heartbeat(self.study)
            self.last = time.monotonic()
