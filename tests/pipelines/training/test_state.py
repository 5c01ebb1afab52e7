"""Checkpoints: the state survives a round trip through a file, and the latest of all starts is loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.outputs.trained_models import FinishedSeed, ThetaHistory
from pipelines.training.checkpoints import STATE_FILE
from pipelines.training.precision import Precision
from pipelines.training.state import TrainingState, load_state, serialize
from pipelines.training.trainer import Trainer
from tests.pipelines.training.test_trainer import make_trainer


def state(finished: int, epoch: int | None) -> TrainingState:
    done = {seed: FinishedSeed({"w": torch.full((50,), float(seed))}, [], None) for seed in range(finished)}
    if epoch is None:
        return TrainingState(done)
    return TrainingState(done, seed=finished, trainer={"epoch": epoch, "network": {"w": torch.ones(500)}})


def save(folder: Path, value: TrainingState) -> Path:
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
    trainer, before = (
        trained(make_trainer(transformer), epochs),
        TrainingState(precision=Precision("bfloat16", "by hand")),
    )
    before.finished[7] = FinishedSeed(
        trainer.weights(), [{"train_loss": 1 / 3}], ThetaHistory(trainer.watched, torch.ones(1, 10, 4))
    )
    before.update(5, trainer)
    (tmp_path / STATE_FILE).write_bytes(serialize(before))
    assert torch.load(tmp_path / STATE_FILE, weights_only=True).keys() == {"finished", "seed", "trainer", "precision"}
    after, notes = load_state(str(tmp_path))
    assert after is not None and notes == []
    assert same(before.to_plain(), after.to_plain())
    assert isinstance(after.finished[7].theta_history, ThetaHistory)
    if epochs == 1:
        assert (after.seed, after.progress, after.epochs_done) == (5, (1, 1), 2)
        return
    assert (after.seed, after.trainer, after.progress, after.epochs_done) == (None, None, (2, 0), 4)
    theta_history = after.finished[5].theta_history
    assert (theta_history is not None) == transformer
    assert theta_history is None or theta_history.theta.shape == (3, 10, 4)


def test_a_trainer_resumed_from_a_file_gives_the_weights_of_an_undisturbed_one(tmp_path):
    whole, saved = trained(make_trainer(), 3), TrainingState()
    saved.update(0, trained(make_trainer(), 1))
    (tmp_path / STATE_FILE).write_bytes(serialize(saved))
    loaded, _ = load_state(str(tmp_path))
    assert loaded is not None and loaded.trainer is not None
    resumed = make_trainer()
    resumed.load_state_dict(loaded.trainer)
    trained(resumed, 2)
    assert same(resumed.weights(), whole.weights())
    assert [metrics["train_loss"] for metrics in resumed.history] == [m["train_loss"] for m in whole.history]


def test_nothing_there_is_a_fresh_start(tmp_path):
    assert load_state(str(tmp_path / "missing")) == (None, [])
    assert load_state(str(tmp_path)) == (None, [])


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_the_furthest_of_all_attempts_wins(tmp_path, order):
    """A finished seed is further than any epoch of the seed before. Neither a folder's name nor its age counts."""
    found, stages = None, [state(0, 9), state(1, None), state(1, 2), state(2, None)]
    for place, which in enumerate(order):
        save(tmp_path / f"attempt {place}" / f"checkpoint_{3 - place}", stages[which])
        found, notes = load_state(str(tmp_path))
        furthest = max(order[: place + 1])
        assert notes == [] and found is not None
        assert found.progress == stages[furthest].progress
        assert len(found.finished) == len(stages[furthest].finished)
        assert (found.trainer is None) == (stages[furthest].trainer is None)
    assert found is not None and torch.equal(found.finished[1].weights["w"], torch.ones(50))


def test_unreadable_checkpoints_are_skipped_with_a_note(tmp_path):
    whole = save(tmp_path / "a" / "checkpoint_1", state(0, 4)).read_bytes()
    broken = []
    for cut in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path = tmp_path / "b" / f"checkpoint_{cut}" / STATE_FILE
        path.parent.mkdir(parents=True)
        path.write_bytes(whole[:cut])
        broken.append(path)
    for name, content in (
        ("code", {"finished": {}, "seed": None, "trainer": print}),  # weights_only: code is not run
        ("other", {"finished": {}, "current": None}),  # a state of another form
    ):
        (tmp_path / "b" / name).mkdir()
        torch.save(content, tmp_path / "b" / name / STATE_FILE)
        broken.append(tmp_path / "b" / name / STATE_FILE)
    (tmp_path / "b" / "notes.txt").write_text("no checkpoint")
    found, notes = load_state(str(tmp_path))
    assert found is not None and found.epochs_done == 4
    assert sorted(note.split(":")[0] for note in notes) == sorted(map(str, broken))

    (tmp_path / "a" / "checkpoint_1" / STATE_FILE).unlink()
    found, notes = load_state(str(tmp_path))
    assert found is None and len(notes) == len(broken)
