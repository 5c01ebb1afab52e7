"""The stage prepare: read a data set, split it, distort the held-out images, and write everything."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.networks.build import check_network
from pipelines.outputs.prepared_data import PREPARED, DatasetMeta, Labeled, Splits, digest_of_splits, write_prepared
from pipelines.preparation.raw_dataset import RawDataset
from pipelines.preparation.sources import read_source
from pipelines.preparation.splits import GroupCounts, SplitRows, assign_rows, count_duplicates, count_groups
from pipelines.runtime.files import attach_path_to_errors
from pipelines.runtime.keys import key_of
from pipelines.runtime.locks import hold_lock
from pipelines.settings.data_params import DataParams, PrepareParams
from pipelines.settings.params import Params
from pipelines.settings.variants import TUNED, load_variant
from stn.distortions import Distortion, distort_once, make_distortion
from stn.seeds import derive_seed
from stn.settings import Normalization

MAX_LISTED = 5  # skipped files in the report
MIN_STD = 1 / 255  # for a channel with one value everywhere, so that nothing is divided by zero
EARLIER_SPLITS = {"validation": "train", "test": "train or validation"}


def prepare(params: Params, folder: Path = PREPARED) -> DatasetMeta:
    """Prepare the data set of params.yaml, after checking that its images are large enough for all variants.

    Raises:
        UserError: a variant's kernels are larger than the images.
        UserError, ExternalError, OSError: as :func:`prepare_source`.
    """
    form = params.data.form
    height, width = make_distortion(**params.data.distortion.model_dump()).framed(form.height, form.width)
    for variant in params.variants:
        if variant != TUNED:  # the stage tune may write another one for this size
            check_network(variant, load_variant(variant), (form.channels, height, width), classes=2)
    return prepare_source(params.data, params.prepare, folder)


def prepare_source(data: DataParams, settings: PrepareParams, folder: Path = PREPARED) -> DatasetMeta:
    """Read, split, distort and write a data set; returns the content of its meta.json.

    Training images are stored undistorted, because each epoch distorts them again. Validation and test images are
    stored distorted. The validation images are also stored undistorted, for ``train.final_fit``. If the distortion has
    a canvas, all images are placed on it.

    Raises:
        UserError: ``data.source`` holds no usable data set, or a class has too few images to split.
        ExternalError: a file cannot be read, or a download failed.
        OSError: the folder cannot be written.
    """
    raw = read_source(data)
    distortion = make_distortion(**data.distortion.model_dump())
    rows = assign_rows(raw, settings)
    undistorted = _select(raw, rows, distortion)
    stored = _distort_held_out(undistorted, distortion, settings.seed)
    meta = _describe(data, raw, count_groups(raw.groups, rows), undistorted, stored)
    extra = None if distortion.is_identity else undistorted.validation
    with hold_lock(f"prepare-{key_of(str(folder.resolve()))}"), attach_path_to_errors(folder):
        write_prepared(stored, extra, meta, folder)
    return meta


def _select(raw: RawDataset, rows: SplitRows, distortion: Distortion) -> Splits:
    """The images of each split, on the distortion's canvas."""
    splits = map(raw.select, rows)
    return Splits(*(Labeled(distortion.onto_canvas(split.images), split.labels) for split in splits))


def _distort_held_out(splits: Splits, distortion: Distortion, seed: int) -> Splits:
    """Distort the validation and test images, each split with random numbers of its own."""

    def distort(split: Labeled, number: int) -> Labeled:
        generator = torch.Generator().manual_seed(derive_seed(seed, number))
        return Labeled(distort_once(split.images, distortion, generator), split.labels)

    return Splits(splits.train, distort(splits.validation, 1), distort(splits.test, 2))


def _describe(
    data: DataParams, raw: RawDataset, groups: GroupCounts, undistorted: Splits, stored: Splits
) -> DatasetMeta:
    """The content of meta.json."""
    channels, height, width = stored.train.images.shape[1:]
    image_shape = (channels, height, width)
    normalization = _measure_channels(stored.train.images)
    # Without the default protocol: data that were prepared before protocols existed keep their digest.
    distortion: dict[str, Any] = data.distortion.model_dump(exclude_defaults=True)
    return DatasetMeta(
        dataset=data.dataset,
        source=raw.origin,
        classes=raw.classes,
        image_shape=image_shape,
        counts={name: len(split.labels) for name, split in stored._asdict().items()},
        mean=normalization.mean,
        std=normalization.std,
        distortion=distortion,
        duplicates=count_duplicates(undistorted),
        broken=dict(raw.broken),
        digest=digest_of_splits(stored, raw.classes, image_shape, distortion, data.form),
        fit=data.fit,
        fill=data.fill,
        pixel_range=None if raw.pixel_range is None else list(raw.pixel_range),
        groups=groups.each,
        shared_groups=groups.shared,
        left_alone=list(raw.left_alone),
    )


def _measure_channels(images: Tensor) -> Normalization:
    """Mean and standard deviation of each channel of images uint8 (N, C, H, W), scaled to [0, 1]."""
    scaled = images.float().div_(255)
    mean, std = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3))
    return Normalization(mean.tolist(), std.clamp(min=MIN_STD).tolist())


def report(meta: DatasetMeta) -> None:
    """Print a summary of meta.json: the number of images, the skipped files and the duplicates."""
    counts = ", ".join(f"{count} {name}" for name, count in meta.counts.items())
    channels, height, width = meta.image_shape
    print(
        f"prepared {meta.dataset} from {meta.source}: {counts}; {len(meta.classes)} classes, "
        f"{channels}×{height}×{width} (fit: {meta.fit}), digest {meta.digest[:12]}"
    )
    if meta.pixel_range is not None:
        low, high = meta.pixel_range
        print(f"pixels: images with more than 8 bits are scaled from {low:g} (black) to {high:g} (white)")
    if meta.groups:
        print("groups: " + ", ".join(f"{count} in {split}" for split, count in meta.groups.items()))
    for split, count in meta.shared_groups.items():
        if count:
            print(f"groups: {count} of the {meta.groups[split]} in {split} are also in {EARLIER_SPLITS[split]}")
    for line in meta.left_alone:
        print(f"left alone: {line}")
    for name, reason in list(meta.broken.items())[:MAX_LISTED]:
        print(f"skipped: {name}: {reason}")
    if meta.broken:
        print(f"skipped: {len(meta.broken)} files that are not readable images; {PREPARED}/meta.json lists all")
    for split, count in meta.duplicates.items():
        if count:
            print(
                f"duplicates: {count} of the {meta.counts[split]} {split} images are also in {EARLIER_SPLITS[split]}, "
                f"pixel for pixel"
            )
