"""The training function: what a worker reports."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipelines.training.worker import reason_for_eager_steps
from stn.settings import Recipe


@pytest.mark.parametrize(
    ("device", "capture", "captured", "reason"),
    [
        ("cuda", "auto", None, "ema"), ("cuda", "auto", object(), None), ("cuda", "off", None, None),
        ("cpu", "auto", None, None),
    ],
)  # fmt: skip
def test_a_gpu_says_why_it_trains_step_by_step(device, capture, captured, reason):
    trainer: Any = SimpleNamespace(
        training=SimpleNamespace(device=torch.device(device)), recipe=Recipe(1, 4, capture=capture), captured=captured,
        reason_against_capture="ema",
    )  # fmt: skip
    assert reason_for_eager_steps(trainer) == reason
