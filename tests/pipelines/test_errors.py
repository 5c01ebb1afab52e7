"""The exit code of each kind of failure, and what is printed of it."""

import pytest

from pipelines.errors import UserError, WorldError, run


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (WorldError("no network"), 1, "error: no network\n"),
        (UserError("train.lr: -1 given"), 2, "error: train.lr: -1 given\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_told_failure_has_its_code_and_no_traceback(raised, code, said, capsys):
    def main():
        raise raised

    with pytest.raises(SystemExit) as ended:
        run(main)
    out, err = capsys.readouterr()
    assert ended.value.code == code
    assert out == "" and err.startswith(said) and err.count("\n") == 1


def test_a_bug_keeps_its_traceback():
    def main():
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        run(main)


def test_success_goes_on():
    done = []
    run(lambda: done.append(True))
    assert done == [True]
