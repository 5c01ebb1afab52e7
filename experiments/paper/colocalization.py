"""Co-localization (Jaderberg et al., 2015, appendix A.2): find the object that a set of images has in common.

The images show the same digit at different places, and neither its location nor an image of it alone is given. A
transformer moves a crop of a digit's size. Its loss requires that the crops of any two images are more similar than a
crop and a random patch of the same image. Similarity is the distance between the features of a classifier of upright
digits, which is trained with labels.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.paper.networks import DIGIT, LOCALIZATIONS, paper_network
from experiments.paper.result_files import ColocalizationResult
from experiments.paper.settings import FOLDER, ColocalizationParams, Params
from pipelines.outputs.prepared_data import DatasetMeta, Labeled, load_meta, load_split
from pipelines.runtime.errors import ExternalError
from pipelines.runtime.progress import progress
from pipelines.training.recipe import recipe_of
from pipelines.training.trainer import Trainer, TrainingData
from stn.distortions import Distortion, distort_once
from stn.localization import Localization
from stn.seeds import derive_seed
from stn.spatial_transformer import SpatialTransformer
from stn.training import NotFiniteError, default_device
from stn.transforms import Attention

CANVAS = 84  # height and width of an image in pixels
SCALE = DIGIT / CANVAS  # size of a crop relative to the image
MAX_SHIFT = 1 - SCALE  # of a crop within the image, in units of half the image
PATCHES = 10  # random patches per image that the loss at the end is averaged over
OTHERS = 1000  # digits of any class that pieces of clutter are cut from

Encoder = Callable[[Tensor], Tensor]  # crops (N, 1, 28, 28) → encodings (N, D)


def place_on_canvas(digits: Tensor, others: Tensor, clutter: int, seed: int) -> tuple[Tensor, Tensor]:
    """Place each digit at random on a black canvas.

    Args:
        digits: uint8 (N, 1, 28, 28).
        others: images of the same shape; pieces of clutter are cut from them and from ``digits``.
        clutter: number of pieces of 6×6 pixels that cover each canvas.

    Returns:
        Images uint8 (N, 1, 84, 84), and the centers (N, 2) of the digits as (x, y) in units of half the canvas.
    """
    distortion = Distortion(canvas=CANVAS / DIGIT, clutter=clutter)
    images = distortion.onto_canvas(torch.cat((digits, others)))
    motions = distortion.draw(len(images), CANVAS, CANVAS, torch.Generator().manual_seed(seed))
    # distort_once first draws the same motions from a generator with the same seed.
    placed = distort_once(images, distortion, torch.Generator().manual_seed(seed))
    return placed[: len(digits)], -motions[: len(digits), :, 2]


def intersection_over_union(centers: Tensor, other_centers: Tensor) -> Tensor:
    """Intersection over union (N,) of squares of a digit's size around centers (x, y), both (N, 2)."""
    shared = (DIGIT - (centers - other_centers).abs() * CANVAS / 2).clamp(min=0).prod(1)
    return shared / (2 * DIGIT**2 - shared)


def triplet_loss(crops: Tensor, patches: Tensor, margin: float, pull: float = 1.0) -> Tensor:
    """The mean over all pairs of crops of max(0, pull · ‖crop - other crop‖² - ‖crop - patch‖² + margin).

    Args:
        crops, patches: encodings (N, D) of the crop and of a random patch of each image.
        pull: weight of the distance between crops; 1 in the paper.
    """
    to_others = (crops[:, None] - crops).square().sum(2)
    to_patches = (crops - patches).square().sum(1)
    return F.relu(pull * to_others - to_patches[:, None] + margin).mean()


def localize(
    images: Tensor,
    encode: Encoder,
    settings: ColocalizationParams,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Tensor, float]:
    """Learn the location of the common object of images (N, 1, 84, 84).

    With the paper's loss alone, all crops soon move to places without any object, because these are similar, too. Two
    schedules prevent this, until the share ``ramp`` of the steps. The weight of the distance between crops grows from
    0. At first, crops only have to differ from random patches, and most patches are nearly empty. Noise on the centers
    of the crops decreases to 0. It lets the transformer learn from objects that a crop does not reach.

    Returns:
        The centers (N, 2) of the crops, and the loss at the end.
    """
    family = Attention(scale=SCALE, bound=MAX_SHIFT)
    layers = LOCALIZATIONS["CNN"].model_copy(update={"downsample": 2}).model_dump()
    localization = Localization((1, CANVAS, CANVAS), family.identity, **layers)
    transformer = SpatialTransformer(localization, "border", family, (DIGIT, DIGIT)).to(images.device)
    optimizer = torch.optim.Adam(transformer.parameters(), settings.lr)
    for step in range(settings.steps):
        progress_share = min(1.0, step / (settings.ramp * settings.steps))
        theta = transformer.theta(images)
        noise = settings.noise * (1 - progress_share) * torch.randn_like(theta)
        crops = encode(transformer.warp(images, (theta + noise).clamp(-MAX_SHIFT, MAX_SHIFT)))
        with torch.no_grad():
            patches = encode(transformer.warp(images, random_centers(theta)))
        loss = triplet_loss(crops, patches, settings.margin, pull=progress_share)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if on_step is not None:
            on_step(step + 1)
    with torch.no_grad():
        theta = transformer.theta(images)
        crops = encode(transformer.warp(images, theta))
        patches = [encode(transformer.warp(images, random_centers(theta))) for _ in range(PATCHES)]
        losses = [triplet_loss(crops, patch, settings.margin) for patch in patches]
    return theta, torch.stack(losses).mean().item()


def random_centers(like: Tensor) -> Tensor:
    """Centers (N, 2) of crops within the image, uniformly distributed."""
    return MAX_SHIFT * (2 * torch.rand_like(like) - 1)


def train_encoder(digits: Labeled, meta: DatasetMeta, params: Params) -> Encoder:
    """Train the paper's CNN to classify upright digits; the encoder is the network without its last layer.

    Encodings are scaled to a mean length of 1 over digits.

    Raises:
        ExternalError: the loss became infinite or NaN.
    """
    own = params.colocalization
    changes = {"epochs": own.encoder_epochs, "optimizer": "sgd", "lr": own.encoder_lr}
    settings = params.train.model_copy(update=changes)
    variant = paper_network("CNN", meta.image_shape, len(meta.classes), params.train)
    batches = meta.batches(digits, default_device())
    trainer = Trainer(
        meta.network_builder(variant, settings.dropout), recipe_of(settings, variant), TrainingData(batches, batches),
        own.seed, precision=torch.float32,
    )  # fmt: skip
    with progress("encoder", trainer.epochs) as reporter:
        while trainer.done < trainer.epochs:
            try:
                trainer.train_epoch(lambda step: reporter.update(trainer.done + step / trainer.steps))
            except NotFiniteError as error:
                raise ExternalError(f"encoder: {error}; a smaller colocalization.encoder_lr may help") from None
    layers = list(trainer.result.eval().requires_grad_(False).classifier.children())
    features = nn.Sequential(*layers[:-1])
    images, _ = next(batches.ordered(1000))
    mean_length = features(images).norm(dim=1).mean()
    return lambda crops: features(crops) / mean_length


def colocalize(digit: int, params: Params) -> ColocalizationResult:
    """Localize a digit on a black canvas and among clutter.

    A digit is found if its crop overlaps it by more than half (intersection over union).

    Raises:
        UserError: there are no prepared data.
        ExternalError: the loss of the encoder or of all starts became infinite or NaN.
    """
    settings = params.colocalization
    folder = FOLDER / "data" / "R"  # its training images are stored upright
    meta, digits = load_meta(folder), load_split("train", folder)
    encode = train_encoder(digits, meta, params)
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, digit))
    order = torch.randperm(len(digits.labels), generator=generator)
    chosen = order[digits.labels[order] == digit][: settings.images]

    def percentage_found(task: str, clutter: int) -> float:
        torch.manual_seed(derive_seed(settings.seed, digit))
        images, centers = place_on_canvas(digits.images[chosen], digits.images[order[:OTHERS]], clutter, settings.seed)
        normalized = ((images.float() / 255 - meta.mean[0]) / meta.std[0]).to(default_device())
        found = _best_start(normalized, encode, settings, f"digit {digit} {task}")
        return 100 * (intersection_over_union(found.cpu(), centers) > 0.5).double().mean().item()

    return ColocalizationResult(
        digit=digit,
        images=len(chosen),
        starts=settings.starts,
        steps=settings.steps,
        T=percentage_found("T", clutter=0),
        TC=percentage_found("TC", settings.clutter),
    )


def _best_start(images: Tensor, encode: Encoder, settings: ColocalizationParams, title: str) -> Tensor:
    """Localize from several random starts; returns the centers (N, 2) of the start with the lowest loss.

    Some starts end at places without an object. Their loss shows it, so that no true location is needed to choose.

    Raises:
        ExternalError: no start has a finite loss.
    """
    starts = []
    with progress(title, settings.starts * settings.steps) as reporter:
        for start in range(settings.starts):
            done = start * settings.steps
            starts.append(localize(images, encode, settings, lambda step, done=done: reporter.update(done + step)))
    finite = [start for start in starts if math.isfinite(start[1])]
    if not finite:
        raise ExternalError(f"{title}: no start has a finite loss; a smaller colocalization.lr may help")
    centers, _ = min(finite, key=lambda start: start[1])
    return centers
