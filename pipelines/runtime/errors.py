"""The kinds of failure that are told in one line, and the exit codes of every ``python -m pipelines.<module>``.

0: done. 1: the world's fault (no network, a full disk, a broken file, a lost worker). 2: the user's (a setting, an
argument). 3: a gate refused. Anything else that is raised is a bug and keeps its traceback.
"""

import errno
import os
import shutil
import sys
from collections.abc import Callable

from pipelines.runtime import environment
from pipelines.runtime.environment import redact


class ExternalError(Exception):
    """Something outside the settings is wrong; trying again or mending it may help. Exit code 1."""

    exit_code = 1


class UserError(Exception):
    """A setting or an argument is wrong; the message names it, what was given and what is allowed. Exit code 2."""

    exit_code = 2


class GateRefused(Exception):
    """A challenger did not pass a gate. Exit code 3."""

    exit_code = 3


WHAT_TO_DO = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or have the quota raised",
    errno.EFBIG: "have the limit raised (ulimit -f)",
    errno.EACCES: "give yourself the right to it",
    errno.EPERM: "give yourself the right to it",
    errno.EROFS: "make it writable",
    errno.EISDIR: "move that folder away",
    errno.ENOTDIR: "move the file that stands for a folder away",
    errno.EEXIST: "move it away",
}


def describe_os_error(error: OSError) -> str | None:
    """What the operating system refused, where, and what to do, in one line; nothing where it was not the system."""
    if isinstance(error, shutil.Error):  # of a tree that was copied: each file with the reason
        _, place, reason = error.args[0][0]
        return f"{place}: {reason}"
    if error.errno is None:
        return None
    # Of two files the second is the one written; of a full disk some libraries name none.
    place = error.filename2 or error.filename or "here, in the state's home or among temporary files"
    reason = error.strerror or os.strerror(error.errno)
    return "; ".join(filter(None, [f"{place}: {reason}", WHAT_TO_DO.get(error.errno)]))


def run(main: Callable[[], object]) -> None:
    """Read the environment, call a module's ``main`` and end the process with the exit code that its outcome has."""
    try:
        if mistake := environment.read():
            raise UserError(mistake)
        main()
    except (UserError, ExternalError) as error:
        print(f"error: {redact(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except GateRefused as refusal:
        print(f"refused: {refusal}", file=sys.stderr)
        sys.exit(refusal.exit_code)
    except OSError as error:
        if (line := describe_os_error(error)) is None:
            raise
        print(f"error: {line}; what was finished is kept, and the next start goes on from there", file=sys.stderr)
        sys.exit(ExternalError.exit_code)
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept", file=sys.stderr)
        sys.exit(130)
