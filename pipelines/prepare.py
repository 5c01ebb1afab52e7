"""prepare: any source → data/prepared, uint8 tensors in three splits and a meta.json that says all about them."""

import hashlib
import math
import shutil
from pathlib import Path

from pipelines.errors import UserError, run
from pipelines.params import DataParams, PrepareParams, load_params
from pipelines.variants import TUNED, load_variant

if __name__ == "__main__":
    run(load_params)  # a mistake in the settings is answered before torch takes seconds to import

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.model_selection import train_test_split

from pipelines.prepared import PREPARED, UNDISTORTED, Labeled, check_size
from pipelines.sources import read_source
from pipelines.state import key_of, locked, write_json, writing
from stn.batches import mix
from stn.distortions import Distortion, distort_once, make_distortion

SHOWN = 5  # of the files that were left out
EARLIER = {"validation": "train, too", "test": "train or validation, too"}


def prepare(data: DataParams, settings: PrepareParams, folder: Path = PREPARED) -> dict:
    """Read, split, distort and write the data set; returns what meta.json says.

    Training images are stored as they are, since they are distorted afresh in every epoch; validation and test
    images are stored distorted, and the validation images undistorted beside these, for ``train.final_fit``. All lie on
    the canvas of the distortion, where it has one.

    Raises:
        UserError, WorldError: as :func:`pipelines.sources.read_source`; or a class has too few images to split.
        OSError: the folder cannot be written.
    """
    source = read_source(data)
    train, test = source.train, source.test
    if test is None:
        train, test = _split(train, settings.test, settings.seed, source.classes, "prepare.test")
    train, validation = _split(train, settings.validation, settings.seed, source.classes, "prepare.validation")
    distortion = make_distortion(**data.distortion.model_dump())
    train, validation, test = (
        Labeled(distortion.onto_canvas(split.images), split.labels) for split in (train, validation, test)
    )

    scaled = train.images.float().div_(255)
    mean, std = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3))
    splits = {
        "train": train,
        "validation": _distorted(validation, distortion, mix(settings.seed, 1)),
        "test": _distorted(test, distortion, mix(settings.seed, 2)),
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
        "duplicates": _duplicates({"train": train, "validation": validation, "test": test}),
        "broken": dict(source.broken),
    }
    meta["digest"] = _digest(splits, meta)
    if not distortion.is_identity:
        splits[UNDISTORTED] = validation  # after the digest, since that has all of them already, distorted

    with locked(f"prepare-{key_of(str(folder.resolve()))}"), writing(folder):
        _write(splits, meta, folder)
    return meta


def _write(splits: dict[str, Labeled], meta: dict, folder: Path) -> None:
    """Write all beside ``folder`` and move it there whole; where that fails the folder is as it was."""
    beside, before = (folder.with_name(f".{folder.name}{ending}") for ending in ("", "-before"))
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        for name, split in splits.items():
            save_file({"images": split.images.contiguous(), "labels": split.labels}, beside / f"{name}.safetensors")
        write_json(beside / "meta.json", meta)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    # Moved away whole, since a folder that was being deleted when the power failed still looks like prepared data.
    shutil.rmtree(before, ignore_errors=True)
    if folder.exists():
        folder.rename(before)
    beside.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def _split(whole: Labeled, share: float, seed: int, classes: list[str], setting: str) -> tuple[Labeled, Labeled]:
    try:
        kept, held = train_test_split(
            np.arange(len(whole.labels)), test_size=share, random_state=seed, stratify=whole.labels.numpy()
        )
        if len(set(whole.labels[held].tolist())) < len(classes):
            raise ValueError("a class is missing from the smaller part")
    except ValueError:
        counts = whole.labels.bincount(minlength=len(classes))
        rarest = int(counts.argmin())
        enough = math.ceil(round(1 / min(share, 1 - share), 6))  # the smaller part's share of each class is then one
        raise UserError(
            f"{setting}: {share} given; {len(whole.labels)} images in {len(classes)} classes cannot be split so that "
            f"both parts hold every class (the smallest is {classes[rarest]}, {int(counts[rarest])} images); "
            f"{enough} of each class are enough"
        ) from None
    first, second = torch.tensor(kept), torch.tensor(held)
    return Labeled(whole.images[first], whole.labels[first]), Labeled(whole.images[second], whole.labels[second])


def _distorted(split: Labeled, distortion: Distortion, seed: int) -> Labeled:
    return Labeled(distort_once(split.images, distortion, torch.Generator().manual_seed(seed)), split.labels)


def _duplicates(splits: dict[str, Labeled]) -> dict[str, int]:
    """Of each split after the first: how many images are, pixel for pixel, in a split before it, too."""
    seen: set[bytes] = set()
    found = {}
    for name, split in splits.items():
        rows = split.images.contiguous().flatten(1).numpy()
        digests = [hashlib.blake2b(row, digest_size=16).digest() for row in rows]
        if seen:
            found[name] = sum(digest in seen for digest in digests)
        seen.update(digests)
    return found


def _digest(splits: dict[str, Labeled], meta: dict) -> str:
    """SHA-256 over every pixel and label and what gives them meaning, whatever file they came from."""
    digest = hashlib.sha256(repr([meta[key] for key in ("classes", "image_shape", "distortion")]).encode())
    for split in splits.values():
        digest.update(split.images.contiguous().numpy().data)
        digest.update(split.labels.numpy().data)
    return digest.hexdigest()


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


def main() -> None:
    params = load_params()
    height, width = make_distortion(**params.data.distortion.model_dump()).framed(params.data.size, params.data.size)
    for variant in params.variants:
        if variant != TUNED:  # which a later stage may make anew for this size
            check_size(variant, load_variant(variant), (params.data.channels, height, width))
    meta = prepare(params.data, params.prepare)
    report(meta)


if __name__ == "__main__":
    run(main)
