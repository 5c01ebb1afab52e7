"""The alignment of variants whose transformers undo a known share of each motion."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.evaluation import alignment
from pipelines.evaluation.alignment import measure_alignment, summarize, undone_curve
from pipelines.outputs.motions import UNDONE_MOTIONS
from pipelines.outputs.prepared_data import DatasetMeta, Labeled
from stn.alignment import Poses
from stn.distortions import sampling_matrix
from stn.transforms import Affine

META = DatasetMeta(
    dataset="mine", source="/data/mine", classes=["cat", "dog"], image_shape=(1, 20, 30),
    counts={"train": 300, "validation": 50, "test": 6}, mean=[0.5], std=[0.25], distortion={}, duplicates={},
    broken={}, digest="0",
)  # fmt: skip
ASPECT = 1.5
TEST = Labeled(torch.zeros(6, 1, 20, 30, dtype=torch.uint8), torch.tensor([0, 1] * 3))
SETTINGS: Any = SimpleNamespace(batch_size=6, robustness_images=100)


class Oracle:
    """A transformer that undoes ``share`` of each motion, which it knows from the order of the measurements."""

    def __init__(self, share: float, output_size: tuple[int, int] | None = None):
        self.transform, self.output_size = Affine(), output_size
        self.answers = iter([*self._of_amounts(share), *self._of_views(share)])

    def _of_amounts(self, share: float) -> list[Tensor]:
        answers = []
        for motion in UNDONE_MOTIONS:
            for amount in torch.tensor(motion.amounts, dtype=torch.float32):
                angle, scale, shift = torch.zeros(1), torch.ones(1), torch.zeros(1)
                if motion.name == "rotation":
                    angle = torch.deg2rad(share * amount).view(1)
                elif motion.name == "scale":
                    scale = (amount**share).view(1)
                else:
                    shift = (2 * share * amount).view(1)
                answers.append(self._invert(sampling_matrix(angle, scale, shift, shift, ASPECT)).repeat(6, 1))
        return answers

    def _of_views(self, share: float) -> list[Tensor]:
        views = [alignment._random_motions(6, META, seed) for seed in (1, 2)]
        return [self._invert(view) if share else torch.tensor([Affine.identity]).repeat(6, 1) for view in views]

    @staticmethod
    def _invert(matrices: Tensor) -> Tensor:
        last = torch.tensor([[[0.0, 0.0, 1.0]]]).expand(len(matrices), 1, 3)
        return torch.linalg.inv(torch.cat((matrices, last), 1))[:, :2].flatten(1)

    def theta(self, images: Tensor) -> Tensor:
        return next(self.answers)

    def eval(self) -> None:
        pass


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(alignment, "default_device", lambda: torch.device("cpu"))


def trained(variant: str, seed: int, transformer: Any) -> Any:
    return SimpleNamespace(variant=variant, seed=seed, network=SimpleNamespace(transformer=transformer))


def test_a_transformer_that_undoes_everything_has_slope_one_and_one_that_does_nothing_zero():
    models = {
        "plain": [trained("plain", 0, None)],
        "idle": [trained("idle", 0, Oracle(0.0))],
        "small": [trained("small", 0, Oracle(0.0, output_size=(10, 15)))],
        "exact": [trained("exact", seed, Oracle(1.0)) for seed in (0, 1)],
    }
    measured = measure_alignment(models, TEST, META, SETTINGS)
    assert list(measured) == ["idle", "small", "exact"]
    idle, small, exact = (summarize(measured[name], 0.95) for name in measured)
    for motion in UNDONE_MOTIONS:
        assert idle.slopes[motion.name].median == pytest.approx(0, abs=1e-6)
        slope = exact.slopes[motion.name]
        assert (slope.low, slope.median, slope.high) == pytest.approx((1, 1, 1), abs=1e-5)
        curve = undone_curve(motion, measured["exact"])
        assert curve.median == pytest.approx(np.array(motion.amounts), abs=1e-4)
    assert idle == small and idle.corner_error == idle.fixed_error > 1 and idle.undone == 0
    assert exact.corner_error < 1e-3 < exact.fixed_error and exact.undone == pytest.approx(1)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_fixed_zoom_undoes_nothing(scale):
    class Zoom(Oracle):
        def theta(self, images: Tensor) -> Tensor:
            return scale * torch.tensor([[1.0, 0.1, 0.2, 0.0, 0.8, -0.1]]).repeat(len(images), 1)

    zoomed = summarize(measure_alignment({"zoom": [trained("zoom", 0, Zoom(0.0))]}, TEST, META, SETTINGS)["zoom"], 0.95)
    assert zoomed.undone == 0 and zoomed.corner_error > 0
    assert all(slope.median == pytest.approx(0, abs=1e-9) for slope in zoomed.slopes.values())


def test_the_interval_of_a_slope_covers_the_spread_of_the_seeds():
    measured = measure_alignment(
        {"mixed": [trained("mixed", 0, Oracle(0.5)), trained("mixed", 1, Oracle(1.5))]}, TEST, META, SETTINGS
    )
    slope = summarize(measured["mixed"], 0.95).slopes["rotation"]
    assert (slope.low, slope.median, slope.high) == pytest.approx((0.5, 1.0, 1.5), abs=1e-5)


def test_an_image_whose_theta_jumps_moves_the_mean_and_not_the_median():
    """θ of one of six images turns by half a turn in the middle of the range."""

    class Jumps(Oracle):
        def _of_amounts(self, share: float) -> list[Tensor]:
            answers = super()._of_amounts(share)
            for answer in answers[4:7]:  # positive rotations
                answer[2] *= -1
            return answers

    measured = measure_alignment({"jumps": [trained("jumps", 0, Jumps(1.0))]}, TEST, META, SETTINGS)
    slope = summarize(measured["jumps"], 0.95).slopes["rotation"]
    assert slope.median == pytest.approx(1, abs=1e-5)
    assert slope.mean == pytest.approx(1 - 180 * 60 / 2800 / 6, abs=1e-5)


def test_a_rotation_is_followed_across_180_degrees():
    """The sampling map of an image that lies upside down turns from 170° to -170°, by 20°."""
    rotation = UNDONE_MOTIONS[0]
    angles = torch.deg2rad(180.0 + torch.tensor(rotation.amounts, dtype=torch.float64))
    wrapped = torch.atan2(angles.sin(), angles.cos())
    zero = torch.zeros(1, dtype=torch.float64)
    undone = alignment._undone(rotation, [Poses(angle.view(1), zero, zero, zero) for angle in wrapped], 1)
    assert torch.rad2deg(undone[:, 0]).tolist() == pytest.approx(rotation.amounts)


def test_without_any_transformer_nothing_is_measured():
    assert measure_alignment({"plain": [trained("plain", 0, None)]}, TEST, META, SETTINGS) == {}
