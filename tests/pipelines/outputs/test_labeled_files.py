"""Files of labeled images: the bytes of safetensors, written in chunks, and mapped without a copy."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.outputs.labeled_files import LabeledWriter, map_labeled
from pipelines.runtime.errors import ExternalError


def write(path: Path, images: torch.Tensor, labels: torch.Tensor, chunk: int = 3) -> None:
    with LabeledWriter(path, labels, images.shape[1:]) as file:
        for part in images.split(chunk):
            file.write(part)


@pytest.mark.parametrize("shape", [(7, 3, 5, 4), (1, 1, 3, 3), (1000, 1, 28, 28), (0, 3, 4, 4)])
def test_a_file_is_that_of_safetensors(tmp_path, shape):
    images, labels = torch.randint(256, shape, dtype=torch.uint8), torch.arange(shape[0])
    write(tmp_path / "ours", images, labels)
    save_file({"images": images, "labels": labels}, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    mapped, theirs = map_labeled(tmp_path / "ours"), load_file(tmp_path / "ours")
    assert torch.equal(mapped.images, theirs["images"]) and torch.equal(mapped.labels, theirs["labels"])
    assert mapped.images.dtype == torch.uint8 and mapped.labels.dtype == torch.int64


def test_a_write_to_a_mapped_image_does_not_reach_the_file(tmp_path):
    write(tmp_path / "a", torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.arange(2))
    first, second = map_labeled(tmp_path / "a"), map_labeled(tmp_path / "a")
    first.images.fill_(9)
    assert not second.images.any() and not map_labeled(tmp_path / "a").images.any()


def test_a_mapping_outlives_the_file(tmp_path):
    """prepare replaces the folder while another process still reads."""
    write(tmp_path / "a", torch.full((2, 1, 4, 4), 7, dtype=torch.uint8), torch.arange(2))
    mapped = map_labeled(tmp_path / "a")
    (tmp_path / "a").unlink()
    assert (mapped.images == 7).all()


@pytest.mark.parametrize("size", [0, 5, 60, -1])
def test_a_truncated_file_is_named(tmp_path, size):
    write(tmp_path / "a", torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.arange(2))
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(content[:size])
    with pytest.raises(ExternalError, match=re.escape(str(tmp_path / "a"))):
        map_labeled(tmp_path / "a")


def test_a_file_of_other_tensors_is_named(tmp_path):
    save_file({"weights": torch.zeros(3)}, tmp_path / "a")
    with pytest.raises(ExternalError, match="damaged"):
        map_labeled(tmp_path / "a")
