"""The GPU script: its small form on a CPU, with torch, numpy and PIL alone, and the file of packed images."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.gpu.__main__ import Run
from benchmarks.gpu.convolutions import by_matrix_product
from benchmarks.gpu.pack_data import pack
from benchmarks.gpu.packed_images import read

ROOT = Path(__file__).resolve().parents[2]
REFUSED = (
    "ray,mlflow,pydantic,optuna,safetensors,ruamel,dotenv,torchvision,matplotlib,scipy,sklearn,rich,psutil,filelock"
)
RUN = """
import runpy, sys
class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ImportError(f"{name} is refused")
sys.meta_path.insert(0, Refusal())
sys.argv = ["benchmarks.gpu", *sys.argv[2:]]
runpy.run_module("benchmarks.gpu", run_name="__main__")
"""


@pytest.mark.slow
def test_the_small_form_passes_its_checks_without_the_packages_of_the_pipeline(tmp_path):
    out = tmp_path / "results.json"
    command = [sys.executable, "-c", RUN, REFUSED, "--seconds", "500", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=600)
    results = json.loads(out.read_text())
    assert list(results) == ["machine", "data", "checks", "throughput", "tutorial", "accuracy", "kernels",
                             "convolutions", "limits", "sharing"]  # fmt: skip
    assert results["checks"]["failures"] == [] and len(results["checks"]["values"]) >= 10
    assert any("seeds in one graph" in row for row in results["throughput"])
    assert all(speed > 0 for speed in results["throughput"].values())
    assert set(results["sharing"]) == {"2 process(es) with 1 seed(s)", "1 process(es) with 2 seed(s)"}
    assert all(row["images/s"] > 0 for row in results["sharing"].values())
    assert len(results["convolutions"]) == 4 and all(len(rows) == 4 for rows in results["convolutions"].values())


def test_a_product_of_matrices_convolves():
    torch.manual_seed(0)
    images, layer = torch.randn(2, 3, 9, 8), torch.nn.Conv2d(3, 4, (5, 3))
    torch.testing.assert_close(by_matrix_product(images, layer.weight, layer.bias), layer(images))


def test_a_phase_that_fails_does_not_end_the_run(tmp_path):
    run = Run(tmp_path / "results.json", 100)

    def measurements():
        yield "fails", lambda: 1 / 0
        yield "works", lambda: 2.0

    run.phase("broken", lambda: [][0])
    run.phase("throughput", lambda: run.rows(measurements(), 1))
    results = json.loads((tmp_path / "results.json").read_text())
    assert "IndexError" in results["broken"]["failed"] and results["throughput"] == {"works": 2.0}
    assert len(run.failures) == 2 and run.failures[1].startswith("fails: ZeroDivisionError")


@pytest.mark.slow
def test_without_time_phases_are_left_out_and_it_is_said(tmp_path):
    out = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--seconds", "0", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    results = json.loads(out.read_text())
    assert results["checks"] == {"left out": "no time was left"}


def jpeg(pixels: np.ndarray, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def archive(folder: Path, qualities=(90,)) -> tuple[Path, dict[str, bytes]]:
    """A zip with twenty images for each of two classes and both splits."""
    generator, files = np.random.default_rng(0), {}
    for split in ("train", "test"):
        for name in ("cat", "ant"):
            for i in range(20):  # 80 files of 1.5 kB: more bytes than two-byte numbers count
                pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                files[f"{split}/{name}/{i}.jpg"] = jpeg(pixels, qualities[len(files) % len(qualities)])
    with zipfile.ZipFile(folder / "images.zip", "w") as zipped:
        for name, data in files.items():
            zipped.writestr(name, data)
    return folder / "images.zip", files


def test_packed_images_are_the_images_of_the_archive(tmp_path):
    source, files = archive(tmp_path)
    assert pack(source, tmp_path / "packed.xz") == (tmp_path / "packed.xz").stat().st_size
    splits = read(tmp_path / "packed.xz", 1)
    for name, split in splits.items():
        chosen = sorted(file for file in files if file.startswith(name))
        expected = np.stack([np.asarray(Image.open(io.BytesIO(files[file]))) for file in chosen])
        np.testing.assert_array_equal(split.images.permute(0, 2, 3, 1).numpy(), expected)
        assert split.labels.tolist() == ["cat" in file for file in chosen]


def test_images_with_different_headers_are_refused(tmp_path):
    source, _ = archive(tmp_path, qualities=(90, 50))
    with pytest.raises(ValueError, match="2 different headers"):
        pack(source, tmp_path / "packed.xz")
