"""From any source to prepared data: read, split, distort, write."""

from pathlib import Path

import torch

from pipelines.networks.build import check_size
from pipelines.outputs.prepared_data import PREPARED, UNDISTORTED, Labeled, digest_of_splits, write_prepared
from pipelines.preparation.sources import read_source
from pipelines.preparation.splits import count_duplicates, split_stratified
from pipelines.runtime.files import writing
from pipelines.runtime.keys import key_of
from pipelines.runtime.locks import locked
from pipelines.settings.params import DataParams, Params, PrepareParams
from pipelines.settings.variants import TUNED, load_variant
from stn.batches import derive_seed
from stn.distortions import Distortion, distort_once, make_distortion

SHOWN = 5  # of the files that were left out


EARLIER = {"validation": "train, too", "test": "train or validation, too"}


def prepare(params: Params, folder: Path = PREPARED) -> dict:
    """Prepare the data set of params.yaml, once its variants are known to fit its images; returns meta.json."""
    size = params.data.size
    height, width = make_distortion(**params.data.distortion.model_dump()).framed(size, size)
    for variant in params.variants:
        if variant != TUNED:  # which a later stage may make anew for this size
            check_size(variant, load_variant(variant), (params.data.channels, height, width))
    return prepare_source(params.data, params.prepare, folder)


def prepare_source(data: DataParams, settings: PrepareParams, folder: Path = PREPARED) -> dict:
    """Read, split, distort and write the data set; returns what meta.json says.

    Training images are stored as they are, since they are distorted afresh in every epoch; validation and test
    images are stored distorted, and the validation images undistorted beside these, for ``train.final_fit``. All lie on
    the canvas of the distortion, where it has one.

    Raises:
        UserError, ExternalError: as :func:`~pipelines.preparation.sources.read_source`; or a class has
            too few images to split.
        OSError: the folder cannot be written.
    """
    source = read_source(data)
    train, test = source.train, source.test
    if test is None:
        train, test = split_stratified(train, settings.test, settings.seed, source.classes, "prepare.test")
    train, validation = split_stratified(
        train, settings.validation, settings.seed, source.classes, "prepare.validation"
    )
    distortion = make_distortion(**data.distortion.model_dump())
    train, validation, test = (
        Labeled(distortion.onto_canvas(split.images), split.labels) for split in (train, validation, test)
    )

    scaled = train.images.float().div_(255)
    mean, std = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3))
    splits = {
        "train": train,
        "validation": _distorted(validation, distortion, derive_seed(settings.seed, 1)),
        "test": _distorted(test, distortion, derive_seed(settings.seed, 2)),
    }
    meta = {
        "dataset": data.dataset,
        "source": source.origin,
        "classes": source.classes,
        "image_shape": list(train.images.shape[1:]),
        "counts": {name: len(split.labels) for name, split in splits.items()},
        "mean": mean.tolist(),
        "std": std.clamp(min=1 / 255).tolist(),  # a channel of one color everywhere is not divided by zero
        # Without a protocol as it was before there were any, so that data prepared then keep their digest.
        "distortion": data.distortion.model_dump(exclude_defaults=True),
        "duplicates": count_duplicates({"train": train, "validation": validation, "test": test}),
        "broken": dict(source.broken),
    }
    meta["digest"] = digest_of_splits(splits, meta)
    if not distortion.is_identity:
        splits[UNDISTORTED] = validation  # after the digest, since that has all of them already, distorted

    with locked(f"prepare-{key_of(str(folder.resolve()))}"), writing(folder):
        write_prepared(splits, meta, folder)
    return meta


def _distorted(split: Labeled, distortion: Distortion, seed: int) -> Labeled:
    return Labeled(distort_once(split.images, distortion, torch.Generator().manual_seed(seed)), split.labels)


def report(meta: dict) -> None:
    """Print what meta.json says: how many images there are, which files were left out, and how many are there twice."""
    counts = ", ".join(f"{count} {name}" for name, count in meta["counts"].items())
    channels, height, width = meta["image_shape"]
    print(
        f"prepared {meta['dataset']} from {meta['source']}: {counts}; {len(meta['classes'])} classes, "
        f"{channels}×{height}×{width}, digest {meta['digest'][:12]}"
    )
    for name, reason in list(meta["broken"].items())[:SHOWN]:
        print(f"left out: {name}: {reason}")
    if meta["broken"]:
        print(f"left out: {len(meta['broken'])} files that are no readable images; data/prepared/meta.json lists all")
    for split, count in meta["duplicates"].items():
        if count:
            whole = f"{meta['counts'][split]} {split} images"
            print(f"duplicates: {count} of the {whole} are, pixel for pixel, in {EARLIER[split]}")
