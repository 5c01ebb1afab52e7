"""Failures that are reported in one line, and the exit codes of every ``python -m pipelines.<module>``.

0: success. 1: an external failure (no network, a full disk, too little memory, a broken file, a lost worker). 2: a
mistake of the user's (a setting, an argument). 3: a gate refused. 130: Ctrl-C. Any other exception is a bug and keeps
its traceback.
"""

import atexit
import errno
import gc
import os
import shutil
import sys
from collections.abc import Callable

from pipelines.runtime import environment
from pipelines.runtime.environment import redact


class ExternalError(Exception):
    """Something outside the settings is wrong; repairing it or trying again may help. Exit code 1."""

    exit_code = 1


class UserError(Exception):
    """A setting or an argument is wrong; the message names it, what was given and what is allowed. Exit code 2."""

    exit_code = 2


class GateRefused(Exception):
    """A challenger did not pass a gate. Exit code 3."""

    exit_code = 3


REMEDIES = {
    errno.ENOSPC: "free disk space there",
    errno.EDQUOT: "free disk space there, or ask for a higher quota",
    errno.EFBIG: "raise the limit (ulimit -f)",
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.EROFS: "make it writable",
    errno.EISDIR: "move that folder away",
    errno.ENOTDIR: "move the file in the folder's place away",
    errno.EEXIST: "move it away",
}


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def describe_os_error(error: OSError) -> str | None:
    """The error in one line: file, reason, remedy. None if the error did not come from the operating system."""
    if isinstance(error, shutil.Error):  # from copytree: (source, target, reason) of each file
        _, place, reason = error.args[0][0]
        return f"{place}: {reason}"
    if error.errno is None:
        return None
    # Of two files the second is the one written. Some libraries name no file when the disk is full.
    place = error.filename2 or error.filename or "the current, state or temporary folder"
    reason = error.strerror or os.strerror(error.errno)
    return "; ".join(filter(None, [f"{place}: {reason}", REMEDIES.get(error.errno)]))


def run_main(main: Callable[[], object]) -> None:
    """Read the environment, call a module's ``main``, and exit with the code of its failure if it fails."""
    # The objects of imported modules stay until the end. Looking for garbage among them takes 0.6 s while torch
    # and MLflow are imported, and 0.6 s when Python exits.
    gc.set_threshold(20_000, 50, 100)
    atexit.register(gc.freeze)
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
        print(f"error: {line}; finished work is kept, and the next start continues from it", file=sys.stderr)
        sys.exit(ExternalError.exit_code)
    except MemoryError as error:
        print(f"error: too little memory ({first_line(error)}); end other programs, and start again", file=sys.stderr)
        sys.exit(ExternalError.exit_code)
    except KeyboardInterrupt:
        print("interrupted; finished work is kept", file=sys.stderr)
        sys.exit(130)
