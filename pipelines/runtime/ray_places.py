"""What a Ray cluster on this machine needs: a short folder for its sockets, and a Python that a shell can start."""

import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from pipelines.runtime.errors import ExternalError, UserError

SOCKET_LENGTH = 107 if sys.platform == "linux" else 103  # bytes, at most
# What Ray adds to its folder, with a process id of seven digits and a number behind the name.
LONGEST_SOCKET = "/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.1"
LEAST_FREE = 100 * 2**20  # bytes, for Ray's logs and for what it cannot keep in shared memory
FALLBACKS = ("/tmp", "/var/tmp", "/dev/shm")


def session_folder() -> str | None:
    """The folder for the files of a Ray cluster on this machine; None if the one that Ray chooses itself is usable.

    Raises:
        ExternalError: there is none.
    """
    own = _own_choice()
    if not (problem := _problem(own, f"/ray{LONGEST_SOCKET}")):
        return None
    problems = [problem]
    for place in FALLBACKS:
        folder = f"ray-{os.getuid()}"
        if problem := _problem(place, f"/{folder}{LONGEST_SOCKET}"):
            problems.append(problem)
        else:
            return str(Path(place) / folder)
    reasons = "; ".join(dict.fromkeys(problems))
    raise ExternalError(f"RAY_TMPDIR: Ray needs a folder for its sockets and logs; none is usable ({reasons})")


def _own_choice() -> str:
    """The folder in which Ray makes its own one, as ray._common.utils.get_default_system_temp_dir says."""
    names = ("RAY_TMPDIR", "TMPDIR") if sys.platform == "linux" else ("RAY_TMPDIR",)
    return next((os.environ[name] for name in names if name in os.environ), "/tmp")


def _problem(place: str, socket: str) -> str:
    """Why Ray cannot use ``place`` for files and for a socket, a path below it; empty if it can."""
    length = len(os.fsencode(f"{place}{socket}"))
    if length > SOCKET_LENGTH:
        return f"{place}: {length - SOCKET_LENGTH} characters too long"
    try:
        if shutil.disk_usage(place).free < LEAST_FREE:
            return f"{place}: less than {LEAST_FREE >> 20} MiB free"
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return f"{place}: {error.strerror}"
    return ""


def worker_environment(address: str | None) -> dict[str, str]:
    """Additions to Ray's runtime environment so that workers start if the path of Python has special characters.

    Ray puts that path into a line of bash as it is. On a cluster each host has a path of its own.

    Raises:
        UserError: workers of the cluster at ``address`` could not start.
    """
    quoted = shlex.quote(sys.executable)
    if quoted == sys.executable:
        return {}
    if address:
        raise UserError(
            f"RAY_ADDRESS: {address!r} given; Ray cannot start workers with {sys.executable}: a path with spaces or "
            f"special characters; move the project to another folder, and run make setup there"
        )
    return {"py_executable": quoted}
