"""Checkpoints: the state survives a round trip through a file, and the latest of each seed is loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.outputs.trained_models import FinishedSeed, ThetaHistory
from pipelines.training.checkpoints import STATE_FILE
from pipelines.training.precision import Precision
from pipelines.training.state import SeedState, load_states, serialize
from pipelines.training.trainer import Trainer
from tests.pipelines.training.test_trainer import make_trainer

BF16 = Precision("bfloat16", "by hand")


def state(seed: int, epoch: int, finished: bool = False) -> SeedState:
    if finished:
        history = [{"epoch": number + 1.0} for number in range(epoch)]
        return SeedState(seed, BF16, finished=FinishedSeed({"w": torch.full((50,), float(seed))}, history, None))
    return SeedState(seed, BF16, trainer={"epoch": epoch, "network": {"w": torch.ones(500)}})


def save(folder: Path, value: SeedState) -> Path:
    folder.mkdir(parents=True)
    (folder / STATE_FILE).write_bytes(serialize(value))
    return folder / STATE_FILE


def same(first: Any, second: Any) -> bool:
    """Whether two nested values have equal types, and equal tensors bit for bit."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(value, second[name]) for name, value in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return type(first) is type(second) and first == second


def trained(trainer: Trainer, epochs: int) -> Trainer:
    for _ in range(epochs):
        trainer.train_epoch()
    return trainer


@pytest.mark.parametrize("transformer", [True, False])
@pytest.mark.parametrize("epochs", [1, 3], ids=["in progress", "finished"])
def test_a_state_survives_a_file(tmp_path, transformer, epochs):
    before = SeedState.of(trained(make_trainer(transformer), epochs), BF16)
    (tmp_path / STATE_FILE).write_bytes(serialize(before))
    assert torch.load(tmp_path / STATE_FILE, weights_only=True).keys() == {"finished", "seed", "trainer", "precision"}
    states, notes = load_states(str(tmp_path))
    assert states.keys() == {0} and notes == []
    after = states[0]
    assert same(before.to_plain(), after.to_plain())
    assert after.epochs_done == epochs and after.precision == BF16
    if epochs == 1:
        assert after.finished is None
        return
    assert after.finished is not None and after.trainer is None
    theta_history = after.finished.theta_history
    assert (theta_history is not None) == transformer
    if theta_history is not None:
        assert isinstance(theta_history, ThetaHistory) and theta_history.theta.shape == (3, 10, 4)


def test_a_trainer_resumed_from_a_file_gives_the_weights_of_an_undisturbed_one(tmp_path):
    whole = trained(make_trainer(), 3)
    (tmp_path / STATE_FILE).write_bytes(serialize(SeedState.of(trained(make_trainer(), 1), BF16)))
    states, _ = load_states(str(tmp_path))
    assert states[0].trainer is not None
    resumed = make_trainer()
    resumed.load_state_dict(states[0].trainer)
    trained(resumed, 2)
    assert same(resumed.weights(), whole.weights())
    assert [metrics["train_loss"] for metrics in resumed.history] == [m["train_loss"] for m in whole.history]


def test_nothing_there_is_a_fresh_start(tmp_path):
    assert load_states(str(tmp_path / "missing")) == ({}, [])
    assert load_states(str(tmp_path)) == ({}, [])


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_the_furthest_of_all_attempts_wins_for_each_seed(tmp_path, order):
    """A result is further than the epochs before. Neither a folder's name nor its age counts."""
    stages = [state(0, 2), state(0, 9), state(0, 10, finished=True), state(1, 3)]
    found = {}
    for place, which in enumerate(order):
        save(tmp_path / f"attempt {place}" / f"checkpoint_{3 - place}", stages[which])
        found, notes = load_states(str(tmp_path))
        assert notes == [] and found.keys() == {stages[stage].seed for stage in order[: place + 1]}
        for seed, latest in found.items():
            of_seed = [stages[stage] for stage in order[: place + 1] if stages[stage].seed == seed]
            assert latest.epochs_done == max(one.epochs_done for one in of_seed)
    assert (done := found[0].finished) is not None and torch.equal(done.weights["w"], torch.zeros(50))
    assert found[1].finished is None


def test_unreadable_checkpoints_are_skipped_with_a_note(tmp_path):
    whole = save(tmp_path / "a" / "checkpoint_1", state(0, 4)).read_bytes()
    whole_state = state(0, 9).to_plain()
    broken = []
    for cut in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path = tmp_path / "b" / f"checkpoint_{cut}" / STATE_FILE
        path.parent.mkdir(parents=True)
        path.write_bytes(whole[:cut])
        broken.append(path)
    for name, content in (
        ("code", whole_state | {"trainer": print}),  # weights_only: code is not run
        ("other", {"finished": None, "current": None}),  # a state of another form
    ):
        (tmp_path / "b" / name).mkdir()
        torch.save(content, tmp_path / "b" / name / STATE_FILE)
        broken.append(tmp_path / "b" / name / STATE_FILE)
    (tmp_path / "b" / "notes.txt").write_text("no checkpoint")
    found, notes = load_states(str(tmp_path))
    assert found.keys() == {0} and found[0].epochs_done == 4
    assert sorted(note.split(":")[0] for note in notes) == sorted(map(str, broken))

    (tmp_path / "a" / "checkpoint_1" / STATE_FILE).unlink()
    found, notes = load_states(str(tmp_path))
    assert found == {} and len(notes) == len(broken)
