"""load_state: the furthest checkpoint of all attempts, whatever a kill has left lying beside it."""

from pathlib import Path

import pytest
import torch

from pipelines.training.checkpoints import STATE_FILE, load_state


def state(finished: int, epoch: int | None) -> dict:
    done = {seed: {"weights": {"w": torch.full((50,), float(seed))}, "history": []} for seed in range(finished)}
    current = None if epoch is None else {"seed": finished, "epoch": epoch, "network": {"w": torch.ones(500)}}
    return {"finished": done, "current": current}


def save(folder: Path, value) -> Path:
    folder.mkdir(parents=True)
    torch.save(value, folder / STATE_FILE)
    return folder / STATE_FILE


def test_nothing_there_is_a_fresh_start(tmp_path):
    assert load_state(str(tmp_path / "missing")) == (None, [])
    assert load_state(str(tmp_path)) == (None, [])


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_the_furthest_of_all_attempts_wins(tmp_path, order):
    """A finished seed is further than any epoch of the one before; neither a folder's name nor its age says so."""
    found, stages = None, [state(0, 9), state(1, None), state(1, 2), state(2, None)]
    for place, which in enumerate(order):
        save(tmp_path / f"attempt {place}" / f"checkpoint_{3 - place}", stages[which])
        found, notes = load_state(str(tmp_path))
        furthest = max(order[: place + 1])
        assert notes == [] and found is not None
        assert len(found["finished"]) == len(stages[furthest]["finished"])
        assert (found["current"] is None) == (stages[furthest]["current"] is None)
    assert found is not None and torch.equal(found["finished"][1]["weights"]["w"], torch.ones(50))


def test_what_cannot_be_read_is_noted_and_left_aside(tmp_path):
    whole = save(tmp_path / "a" / "checkpoint_1", state(0, 4)).read_bytes()
    broken = []
    for cut in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path = tmp_path / "b" / f"checkpoint_{cut}" / STATE_FILE
        path.parent.mkdir(parents=True)
        path.write_bytes(whole[:cut])
        broken.append(path)
    broken.append(save(tmp_path / "b" / "code", {"finished": {}, "current": print}))  # weights_only: code is not run
    (tmp_path / "b" / "notes.txt").write_text("no checkpoint")
    found, notes = load_state(str(tmp_path))
    assert found is not None and found["current"]["epoch"] == 4
    assert sorted(note.split(":")[0] for note in notes) == sorted(map(str, broken))

    (tmp_path / "a" / "checkpoint_1" / STATE_FILE).unlink()
    found, notes = load_state(str(tmp_path))
    assert found is None and len(notes) == len(broken)
