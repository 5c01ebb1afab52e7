"""Progress: a line from time to time without a terminal; tracked items all come through."""

from types import SimpleNamespace

import pytest

from pipelines.runtime import progress as module
from pipelines.runtime.progress import LINE_EVERY_S, Reporter, progress, track


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(value=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.value))
    return now


def test_without_a_terminal_lines_show_the_time_left(clock, capsys):
    with progress("digits", 160) as reporter:
        for done in range(81):
            reporter.update(done, "seed 3")
            clock.value += LINE_EVERY_S / 20
    lines = capsys.readouterr().out.splitlines()
    # 80 of 160 steps take four times LINE_EVERY_S, so the other 80 will take as long.
    assert [line.split("/")[0] for line in lines] == [f"digits: {done}.0" for done in (20, 40, 60, 80)]
    assert lines[-1] == f"digits: 80.0/160 seed 3 ({LINE_EVERY_S * 4:.0f} s left)"


def test_before_the_first_step_the_time_left_is_infinite(clock, capsys):
    reporter = Reporter("digits", 10, None)
    clock.value += LINE_EVERY_S
    reporter.update(0)
    assert capsys.readouterr().out.startswith("digits: 0.0/10")


@pytest.mark.parametrize("terminal", [True, False])
def test_track_yields_everything_in_order(terminal, monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    monkeypatch.delenv("NO_COLOR" if terminal else "FORCE_COLOR", raising=False)
    assert list(track("digits", iter("abc"), 3)) == ["a", "b", "c"]
    assert list(track("nothing", [], 0)) == []
    # On a terminal the bar ends at the total.
    assert ("3/3" in capsys.readouterr().out) == terminal


def test_work_that_fails_keeps_its_error(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with pytest.raises(ZeroDivisionError), progress("digits", 3):
        raise ZeroDivisionError
