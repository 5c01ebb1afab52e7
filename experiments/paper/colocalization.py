"""colocalization: where is the same digit in a hundred images? Nobody tells where it lies, nor shows it alone.

Jaderberg et al. (2015), appendix A.2. A transformer that only moves a crop of a digit's size learns from one demand:
the crops of any two images shall be more alike than either is to a random patch of its own image. How alike they are
is what a classifier's features say, which has learned from labels to tell upright digits apart.

python -m experiments.paper.colocalization 3
"""

import argparse
import math
from collections.abc import Callable

from experiments.paper.settings import COLOCALIZATION, FOLDER, ColocalizationParams, Params, load_params
from pipelines.runtime.errors import ExternalError, run
from stn.training import default_device

if __name__ == "__main__":
    run(load_params)  # a mistake in the settings is answered before torch takes seconds to import

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.paper.networks import DIGIT, LOCALIZATIONS, paper_network
from experiments.paper.train import batches
from pipelines.outputs.prepared_data import load_meta, load_split
from pipelines.runtime.files import write_json
from pipelines.runtime.progress import progress
from pipelines.training.trainer import Trainer
from stn.batches import derive_seed
from stn.distortions import Distortion, distort_once
from stn.localization import Localization
from stn.spatial_transformer import SpatialTransformer
from stn.training import NotFiniteError
from stn.transforms import Attention

CANVAS = 84  # pixels of an image's side
RESULTS = FOLDER / "results" / COLOCALIZATION
SHARE = DIGIT / CANVAS
REACH = 1 - SHARE  # so far a crop can move in half-images and still lie within the image
PATCHES = 10  # of each image, by which a start's loss is told
OTHERS = 1000  # digits of any kind that pieces of clutter are cut from


def place(digits: Tensor, others: Tensor, clutter: int, seed: int) -> tuple[Tensor, Tensor]:
    """Digits uint8 (N, 1, 28, 28) each on a black canvas, (N, 1, 84, 84), and the places of their centers (N, 2), as
    (x, y) in units of half the canvas; over them lie ``clutter`` pieces of 6×6 of them and of ``others``."""
    distortion = Distortion(canvas=CANVAS / DIGIT, clutter=clutter)
    images = distortion.onto_canvas(torch.cat((digits, others)))
    motions = distortion.draw(len(images), CANVAS, CANVAS, torch.Generator().manual_seed(seed))
    placed = distort_once(images, distortion, torch.Generator().manual_seed(seed))  # which draws the same at first
    return placed[: len(digits)], -motions[: len(digits), :, 2]


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Area of intersection over area of union, (N,), of squares of a digit's size around (x, y), both (N, 2)."""
    shared = (DIGIT - (first - second).abs() * CANVAS / 2).clamp(min=0).prod(1)
    return shared / (2 * DIGIT**2 - shared)


def triplet_loss(crops: Tensor, patches: Tensor, margin: float, pull: float = 1.0) -> Tensor:
    """max(0, ``pull`` · ‖crop - another crop‖² - ‖crop - patch of its own image‖² + margin), the mean over all pairs.

    Args:
        crops, patches: encodings (N, D), of each image's crop and of a random patch of it.
    """
    to_others = (crops[:, None] - crops).square().sum(2)
    to_patches = (crops - patches).square().sum(1)
    return F.relu(pull * to_others - to_patches[:, None] + margin).mean()


def localize(
    images: Tensor,
    encode: Callable[[Tensor], Tensor],
    settings: ColocalizationParams,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Tensor, float]:
    """Learn where the common object of images (N, 1, 84, 84) is; the centers of the crops (N, 2), and the loss there.

    By the paper's loss alone the crops soon agree on places where nothing is, which are alike, too. So at first crops
    are but to be unlike random patches, most of which hold little or nothing, and how alike they shall be grows with
    the steps until ``ramp``; and to crops' places noise is added, less and less until then, so that the way to an
    object is learned from farther than a crop can see.

    Args:
        encode: crops (N, 1, 28, 28) → (N, D).
    """
    family = Attention(scale=SHARE, bound=REACH)
    localization = Localization((1, CANVAS, CANVAS), family.identity, downsample=2, **LOCALIZATIONS["CNN"])
    transformer = SpatialTransformer(localization, "border", family, (DIGIT, DIGIT)).to(images.device)
    optimizer = torch.optim.Adam(transformer.parameters(), settings.lr)
    for step in range(settings.steps):
        done = min(1.0, step / (settings.ramp * settings.steps))
        theta = transformer.theta(images)
        noise = settings.noise * (1 - done) * torch.randn_like(theta)
        crops = encode(transformer.warp(images, (theta + noise).clamp(-REACH, REACH)))
        with torch.no_grad():
            patches = encode(transformer.warp(images, random_places(theta)))
        loss = triplet_loss(crops, patches, settings.margin, pull=done)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if on_step is not None:
            on_step(step + 1)
    with torch.no_grad():
        theta = transformer.theta(images)
        crops = encode(transformer.warp(images, theta))
        patches = [encode(transformer.warp(images, random_places(theta))) for _ in range(PATCHES)]
        losses = [triplet_loss(crops, patch, settings.margin) for patch in patches]
    return theta, torch.stack(losses).mean().item()


def random_places(like: Tensor) -> Tensor:
    """Centers (N, 2) of crops that lie within the image."""
    return REACH * (2 * torch.rand_like(like) - 1)


def make_encoder(params: Params) -> tuple[Callable[[Tensor], Tensor], dict, Tensor, Tensor]:
    """The paper's CNN, trained to tell upright digits apart, up to its last layer; meta.json, the training images uint8
    (N, 1, 28, 28) and their labels. An encoding's length is 1 on the average over digits.

    Raises:
        UserError: there are no prepared data.
        ExternalError: the loss became infinite or NaN.
    """
    folder = FOLDER / "data" / "R"  # where training images are not turned yet
    meta, split = load_meta(folder), load_split("train", folder)
    settings = params.colocalization
    own = {"epochs": settings.encoder_epochs, "optimizer": "sgd", "lr": settings.encoder_lr}
    recipe = params.train.model_dump() | own
    variant = paper_network("CNN", meta["image_shape"], len(meta["classes"]), params.train).model_dump()
    training = batches(split, meta)
    fit = Trainer(recipe, variant, meta, training, training, settings.seed, torch.float32)
    with progress("encoder", fit.epochs) as reporter:
        while fit.done < fit.epochs:
            try:
                fit.epoch(lambda step: reporter.update(fit.done + step / fit.steps))
            except NotFiniteError as error:
                raise ExternalError(f"encoder: {error}; a smaller colocalization.encoder_lr may help") from None
    layers = list(fit.network.eval().requires_grad_(False).classifier.children())
    features = nn.Sequential(*layers[:-1])
    images, _ = next(training.ordered(1000))
    length = features(images).norm(dim=1).mean()
    return lambda crops: features(crops) / length, meta, split.images, split.labels


def colocalize(digit: int, params: Params) -> dict:
    """Localize a digit among nothing and among clutter: the shares of crops, in percent, that overlap it by more than
    half, of that start whose loss ended lowest.

    Raises:
        UserError: there are no prepared data.
        ExternalError: the encoder's loss, or that of all starts, became infinite or NaN.
    """
    settings = params.colocalization
    encode, meta, images, labels = make_encoder(params)
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, digit))
    order = torch.randperm(len(images), generator=generator)
    chosen = order[labels[order] == digit][: settings.images]
    result: dict = {"digit": digit, "images": len(chosen), "starts": settings.starts, "steps": settings.steps}
    for name, clutter in (("T", 0), ("TC", settings.clutter)):
        torch.manual_seed(derive_seed(settings.seed, digit))
        placed, centers = place(images[chosen], images[order[:OTHERS]], clutter, settings.seed)
        normalized = ((placed.float() / 255 - meta["mean"][0]) / meta["std"][0]).to(default_device())
        # Some starts end where nothing is; their loss tells, without a look at where the digits are.
        starts = []
        with progress(f"digit {digit} {name}", settings.starts * settings.steps) as reporter:
            for start in range(settings.starts):
                done = start * settings.steps
                starts.append(
                    localize(normalized, encode, settings, lambda step, done=done: reporter.update(done + step))
                )
        finite = [start for start in starts if math.isfinite(start[1])]
        if not finite:
            raise ExternalError(
                f"digit {digit} {name}: no start has a finite loss; a smaller colocalization.lr may help"
            )
        found, _ = min(finite, key=lambda start: start[1])
        result[name] = 100 * (overlap(found.cpu(), centers) > 0.5).double().mean().item()
    return result


def main() -> None:
    params = load_params()
    parser = argparse.ArgumentParser(prog="python -m experiments.paper.colocalization", description="Find a digit.")
    parser.add_argument("digit", type=int, choices=params.digits)
    digit = parser.parse_args().digit
    result = colocalize(digit, params)
    write_json(RESULTS / f"{digit}.json", result)
    print(f"digit {digit}: {result['T']:.0f} % found, among clutter {result['TC']:.0f} %", flush=True)


if __name__ == "__main__":
    run(main)
