"""The exit code of each kind of failure, and its message."""

import errno
import shutil

import pytest

from pipelines.runtime.errors import ExternalError, UserError, first_line, run_main


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (ExternalError("no network"), 1, "error: no network\n"),
        (UserError("train.lr: -1 given"), 2, "error: train.lr: -1 given\n"),
        (MemoryError("Unable to allocate 9 GiB"), 1, "error: too little memory (Unable to allocate 9 GiB)"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_failure_has_its_exit_code_and_no_traceback(raised, code, message, capsys):
    def main():
        raise raised

    with pytest.raises(SystemExit) as ended:
        run_main(main)
    out, err = capsys.readouterr()
    assert ended.value.code == code
    assert out == "" and err.startswith(message) and err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("cut off\nat byte 3"), "cut off"), (ValueError("\n cut off"), "cut off"), (EOFError(), "EOFError"),
     (ValueError(" \n"), "ValueError")],
)  # fmt: skip
def test_the_first_line_of_an_error(error, line):
    assert first_line(error) == line


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b.json"), "a/b.json: No space left on device; free disk"),
        (OSError(errno.ENOSPC, "No space left on device"), "the current, state or temporary folder: No s"),
        (OSError(errno.EROFS, "Read-only file system", "b"), "b: Read-only file system; make it writable; finished"),
        (PermissionError(errno.EACCES, "Permission denied", "b"), "b: Permission denied; change its permissions"),
        (OSError(errno.EIO, "Input/output error", "b"), "b: Input/output error; finished work is kept, and the n"),
        (OSError(errno.ENOSPC, "No space left on device", "from", None, "to"), "to: No space left on device; free"),
        (shutil.Error([("from/a", "to/a", "[Errno 28] No space left on device")]), "to/a: [Errno 28] No space left"),
    ],
)
def test_what_the_system_refuses_is_reported_in_one_line(error, message, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as ended:
        run_main(main)
    _, err = capsys.readouterr()
    assert ended.value.code == 1
    assert err.startswith(f"error: {message}") and err.count("\n") == 1


@pytest.mark.parametrize("bug", [ZeroDivisionError("a bug"), OSError("a bug, without an errno")])
def test_a_bug_keeps_its_traceback(bug):
    def main():
        raise bug

    with pytest.raises(type(bug), match="a bug"):
        run_main(main)


def test_success_does_not_exit():
    done = []
    run_main(lambda: done.append(True))
    assert done == [True]
