"""The kinds of failure that are told in one line, and the exit codes of every ``python -m pipelines.<module>``.

0: done. 1: the world's fault (no network, a broken file, a lost worker). 2: the user's (a setting, an argument).
3: a gate refused. Anything else that is raised is a bug and keeps its traceback.
"""

import sys
from collections.abc import Callable


class WorldError(Exception):
    """Something outside the settings is wrong; trying again or mending it may help. Exit code 1."""

    exit_code = 1


class UserError(Exception):
    """A setting or an argument is wrong; the message names it, what was given and what is allowed. Exit code 2."""

    exit_code = 2


class GateRefused(Exception):
    """A challenger did not pass a gate. Exit code 3."""

    exit_code = 3


def run(main: Callable[[], object]) -> None:
    """Call a module's ``main`` and end the process with the exit code that its outcome has."""
    try:
        main()
    except (UserError, WorldError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except GateRefused as refusal:
        print(f"refused: {refusal}", file=sys.stderr)
        sys.exit(refusal.exit_code)
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept", file=sys.stderr)
        sys.exit(130)
