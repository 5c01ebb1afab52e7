"""The stage prepare: read a data set, split it, distort the held-out images, and write everything."""

import shutil
from pathlib import Path

from pipelines.networks.build import check_network
from pipelines.outputs.prepared_data import PREPARED, DatasetMeta, load_split, replace_prepared, start_digest
from pipelines.preparation.decoding import read_images
from pipelines.preparation.disk_space import check_disk
from pipelines.preparation.listing import count_of
from pipelines.preparation.raw_dataset import RawDataset
from pipelines.preparation.sources import list_images
from pipelines.preparation.split_files import image_shape, measure_channels, write_splits
from pipelines.preparation.splits import assign_rows, count_duplicates, count_groups
from pipelines.runtime.files import attach_path_to_errors, write_json
from pipelines.runtime.keys import key_of
from pipelines.runtime.locks import hold_lock
from pipelines.settings.data_params import DataParams, PrepareParams
from pipelines.settings.params import Params
from pipelines.settings.variants import TUNED, load_variant
from stn.distortions import make_distortion

MAX_LISTED = 5  # skipped files in the report
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
        ExternalError: a file cannot be read, a download failed, or the disk is too small.
        OSError: the folder cannot be written.
    """
    with (
        hold_lock(f"prepare-{key_of(str(folder.resolve()))}"),
        attach_path_to_errors(folder),
        replace_prepared(folder) as new,
    ):
        scratch = new / "scratch"  # after an error it is deleted with ``new``
        scratch.mkdir()
        meta = _write_prepared(data, settings, folder, new, scratch)
        shutil.rmtree(scratch)  # its file is no longer mapped: NFS keeps deleted files that are in use
    return meta


def _write_prepared(data: DataParams, settings: PrepareParams, folder: Path, new: Path, scratch: Path) -> DatasetMeta:
    """Write the prepared data for ``folder`` into the folder ``new``; arguments as in :func:`read_source`.

    The pixels in ``scratch`` are no longer in use when it returns.
    """
    distortion = make_distortion(**data.distortion.model_dump())
    raw = read_source(data, settings, scratch, folder)
    rows = assign_rows(raw, settings)
    groups = count_groups(raw.groups, rows)
    # Without the default protocol: data that were prepared before protocols existed keep their digest.
    described = data.distortion.model_dump(exclude_defaults=True)
    shape = image_shape(raw, distortion)
    digest = start_digest(raw.classes, shape, described, data.form)
    write_splits(raw, rows, distortion, settings.seed, new, digest=digest)
    normalization = measure_channels(load_split("train", new).images)
    meta = DatasetMeta(
        dataset=data.dataset,
        source=raw.origin,
        classes=raw.classes,
        image_shape=shape,
        counts={name: len(of_split) for name, of_split in rows._asdict().items()},
        mean=normalization.mean,
        std=normalization.std,
        distortion=described,
        duplicates=count_duplicates(raw.hashes, rows),
        broken=dict(raw.broken),
        digest=digest.hexdigest(),
        fit=data.fit,
        fill=data.fill,
        fitted=raw.fitted,
        pixel_range=None if raw.pixel_range is None else list(raw.pixel_range),
        groups=groups.each,
        shared_groups=groups.shared,
        left_alone=list(raw.left_alone),
    )
    write_json(new / "meta.json", meta.to_json())
    return meta


def read_source(data: DataParams, settings: PrepareParams, scratch: Path, folder: Path) -> RawDataset:
    """Read the data set ``data.dataset`` from ``data.source``, converted to the form of ``data``.

    Args:
        scratch: folder of the pixels until they are written to the splits.
        folder: folder of the prepared data.

    Raises:
        UserError, ExternalError, OSError: as :func:`prepare_source`.
    """
    listing = list_images(data)
    check_disk(data, settings, [record.split for record in listing.records], folder)
    return read_images(data, listing, scratch)


def report(meta: DatasetMeta) -> None:
    """Print a summary of meta.json: the number of images, the skipped files and the duplicates."""
    counts = ", ".join(f"{count} {name}" for name, count in meta.counts.items())
    channels, height, width = meta.image_shape
    print(
        f"prepared {meta.dataset} from {meta.source}: {counts}; {len(meta.classes)} classes, "
        f"{channels}×{height}×{width} (fit: {meta.fit}), digest {meta.digest[:12]}"
    )
    if meta.fitted:
        done = {"stretch": "stretched (data.fit: pad or crop keeps it)", "pad": "padded", "crop": "cropped"}[meta.fit]
        print(f"shapes: {count_of(meta.fitted, 'image')} with another aspect ratio, {done}")
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
        print(f"skipped: {count_of(len(meta.broken), 'file')} without a readable image; {PREPARED}/meta.json lists all")
    for split, count in meta.duplicates.items():
        if count:
            print(
                f"duplicates: {count} of the {meta.counts[split]} {split} images are also in {EARLIER_SPLITS[split]}, "
                f"pixel for pixel"
            )
