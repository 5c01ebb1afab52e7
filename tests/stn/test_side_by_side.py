"""Several networks at once: which of them can be trained side by side.

tests/pipelines/training/test_several_trainers.py compares the weights with those of each network alone.
"""

import copy
from dataclasses import replace

import pytest
import torch

from stn.captured_step import CapturedTraining, capture_graph, run_eagerly
from stn.side_by_side import NextEpoch, can_share_a_device, train_side_by_side
from tests.stn.test_captured_step import RECIPE, Training


def captured(training: Training, capture=run_eagerly) -> NextEpoch:
    """The second epoch of a training, whose first has been trained."""
    torch.manual_seed(0)
    training.train_captured(capture, 1)
    return NextEpoch(training.captured, 0, 1, training.scheduler)


def test_steps_that_draw_random_numbers_or_are_not_captured_are_refused():
    whole, random = captured(Training(dropout=0.0)), captured(Training(dropout=0.2))
    new = NextEpoch(CapturedTraining(Training(dropout=0.0).step, run_eagerly), 0, 0, whole.scheduler)
    assert [can_share_a_device(each.training) for each in (whole, random, new)] == [True, False, False]
    assert not can_share_a_device(None)
    for other in (random, new):
        with pytest.raises(ValueError, match="draw no random numbers"):
            train_side_by_side([whole, other])


def test_epochs_of_different_lengths_are_refused():
    short = captured(Training(replace(RECIPE, batch_size=16), dropout=0.0))
    with pytest.raises(ValueError, match="equally many"):
        train_side_by_side([captured(Training(dropout=0.0)), short])


def test_a_state_loaded_after_the_capture_is_refused_and_learning_rates_are_numbers_again():
    first, second = Training(dropout=0.0), Training(dropout=0.0)
    epochs = [captured(first), captured(second)]
    second.optimizer.load_state_dict(copy.deepcopy(second.optimizer.state_dict()))
    with pytest.raises(RuntimeError, match="state was loaded after"):
        train_side_by_side(epochs)
    for training in (first, second):
        assert all(isinstance(group["lr"], float) for group in training.optimizer.param_groups)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: two CUDA graphs run on streams")
def test_two_graphs_on_streams_train_what_each_trains_alone():
    cuda = torch.device("cuda")
    alone, *both = (Training(dropout=0.0, device=cuda) for _ in range(3))
    alone.train_captured(capture_graph)
    train_side_by_side([captured(training, capture_graph) for training in both])
    for training in both:  # the backward pass of grid_sample adds in an order that differs from run to run
        torch.testing.assert_close(training.state(), alone.state(), rtol=1e-3, atol=1e-3)
