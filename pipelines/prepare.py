"""prepare: any source → data/prepared, uint8 tensors in three splits and a meta.json that says all about them."""

import hashlib
import shutil
from pathlib import Path

from pipelines.errors import UserError, run
from pipelines.params import DataParams, PrepareParams, load_params

if __name__ == "__main__":
    run(load_params)  # a mistake in the settings is answered before torch takes seconds to import

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.model_selection import train_test_split

from pipelines.prepared import PREPARED, Labeled
from pipelines.sources import read_source
from pipelines.state import write_json
from stn.batches import mix
from stn.distortions import Distortion, distort


def prepare(data: DataParams, settings: PrepareParams, folder: Path = PREPARED) -> dict:
    """Read, split, distort and write the data set; returns what meta.json says.

    Training images are stored as they are, since they are distorted afresh in every epoch; validation and test
    images are stored distorted.

    Raises:
        UserError, WorldError: as :func:`pipelines.sources.read_source`; or a class has too few images to split.
    """
    source = read_source(data)
    train, test = source.train, source.test
    if test is None:
        train, test = _split(train, settings.test, settings.seed, source.classes, "prepare.test")
    train, validation = _split(train, settings.validation, settings.seed, source.classes, "prepare.validation")

    scaled = train.images.float().div_(255)
    mean, std = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3))
    distortion = Distortion(**data.distortion.model_dump())
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
        "distortion": data.distortion.model_dump(),
    }
    meta["digest"] = _digest(splits, meta)

    beside = folder.with_name(f".{folder.name}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for name, split in splits.items():
        save_file({"images": split.images.contiguous(), "labels": split.labels}, beside / f"{name}.safetensors")
    write_json(beside / "meta.json", meta)
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
    return meta


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
        raise UserError(
            f"{setting}: {share} given; {len(whole.labels)} images in {len(classes)} classes cannot be split so that "
            f"both parts hold every class (the smallest is {classes[rarest]}, {int(counts[rarest])} images)"
        ) from None
    first, second = torch.tensor(kept), torch.tensor(held)
    return Labeled(whole.images[first], whole.labels[first]), Labeled(whole.images[second], whole.labels[second])


def _distorted(split: Labeled, distortion: Distortion, seed: int) -> Labeled:
    if distortion.is_identity:
        return split
    generator = torch.Generator().manual_seed(seed)
    height, width = split.images.shape[-2:]
    matrices = distortion.draw(len(split.labels), height, width, generator)
    pieces = [
        distort(images.float(), matrix, distortion.padding_mode).round().to(torch.uint8)
        for images, matrix in zip(split.images.split(1000), matrices.split(1000), strict=True)
    ]
    return Labeled(torch.cat(pieces), split.labels)


def _digest(splits: dict[str, Labeled], meta: dict) -> str:
    """SHA-256 over every pixel and label and what gives them meaning, whatever file they came from."""
    digest = hashlib.sha256(repr([meta[key] for key in ("classes", "image_shape", "distortion")]).encode())
    for split in splits.values():
        digest.update(split.images.contiguous().numpy().data)
        digest.update(split.labels.numpy().data)
    return digest.hexdigest()


def main() -> None:
    params = load_params()
    meta = prepare(params.data, params.prepare)
    counts = ", ".join(f"{count} {name}" for name, count in meta["counts"].items())
    channels, height, width = meta["image_shape"]
    print(
        f"prepared {meta['dataset']} from {meta['source']}: {counts}; {len(meta['classes'])} classes, "
        f"{channels}×{height}×{width}, digest {meta['digest'][:12]}"
    )


if __name__ == "__main__":
    run(main)
