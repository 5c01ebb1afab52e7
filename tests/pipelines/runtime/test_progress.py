"""Progress: plain lines now and then where no terminal is, and nothing lost of what is tracked."""

from types import SimpleNamespace

import pytest

from pipelines.runtime import progress as module
from pipelines.runtime.progress import PLAIN_EVERY_S, Reporter, progress, track


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(value=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.value))
    return now


def test_plain_lines_come_now_and_then_with_the_time_left(clock, capsys):
    with progress("digits", 160) as reporter:
        for done in range(81):
            reporter.update(done, "seed 3")
            clock.value += PLAIN_EVERY_S / 20
    lines = capsys.readouterr().out.splitlines()
    # 80 steps take four times PLAIN_EVERY_S, and the other 80 of the 160 will take as long again.
    assert [line.split("/")[0] for line in lines] == [f"digits: {done}.0" for done in (20, 40, 60, 80)]
    assert lines[-1] == f"digits: 80.0/160 seed 3 ({PLAIN_EVERY_S * 4:.0f} s left)"


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
