"""Progress: plain lines now and then where no terminal is, and nothing lost of what is tracked."""

from types import SimpleNamespace

import pytest

from pipelines import progress as module
from pipelines.progress import PLAIN_EVERY_S, Reporter, progress, track


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(value=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.value))
    return now


def test_plain_lines_come_now_and_then_with_the_time_left(clock, capsys):
    with progress("digits", 400) as reporter:
        for done in range(101):
            reporter.update(done, "seed 3")
            clock.value += PLAIN_EVERY_S / 25
    lines = capsys.readouterr().out.splitlines()
    # 100 steps take four times PLAIN_EVERY_S, so a line comes after each 25, and the last one's rest is three quarters.
    assert len(lines) == 4
    assert lines[-1].startswith("digits: 100.0/400 seed 3") and f"({PLAIN_EVERY_S * 12:.0f} s left)" in lines[-1]


def test_nothing_done_yet_is_no_division_by_zero(clock, capsys):
    reporter = Reporter("digits", 10, None)
    clock.value += PLAIN_EVERY_S
    reporter.update(0)
    assert capsys.readouterr().out.startswith("digits: 0.0/10")


@pytest.mark.parametrize("terminal", [True, False])
def test_track_yields_everything_in_order(terminal, monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    monkeypatch.delenv("NO_COLOR" if terminal else "FORCE_COLOR", raising=False)
    assert list(track("digits", iter("abc"), 3)) == ["a", "b", "c"]
    assert list(track("nothing", [], 0)) == []
    # On a terminal the bar stands at its end, though whoever took the items took them one late.
    assert ("3/3" in capsys.readouterr().out) == terminal


def test_work_that_fails_keeps_its_error(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with pytest.raises(ZeroDivisionError), progress("digits", 3):
        raise ZeroDivisionError
