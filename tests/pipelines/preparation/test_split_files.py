"""Mean and standard deviation of the channels."""

import pytest
import torch

from pipelines.preparation import split_files
from pipelines.preparation.split_files import MIN_STD, measure_channels


@pytest.mark.parametrize("one_tensor", [0, 10**9], ids=["in chunks", "at once"])
def test_mean_and_standard_deviation_are_those_of_fp64(monkeypatch, one_tensor):
    monkeypatch.setattr(split_files, "ONE_TENSOR", one_tensor)
    monkeypatch.setattr(split_files, "CHUNK_BYTES", 3 * 3 * 6 * 5)  # three images
    images = torch.randint(256, (10, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 1] //= 4
    images[:, 2] = 7
    measured, exact = measure_channels(images), images.double() / 255
    assert measured.mean == pytest.approx(exact.mean((0, 2, 3)).tolist(), rel=1e-5)
    assert measured.std == pytest.approx([*exact.std((0, 2, 3))[:2].tolist(), MIN_STD], rel=1e-5)
