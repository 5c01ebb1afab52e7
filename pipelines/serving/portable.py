"""Models as files for other programs: ONNX, or an exported program of PyTorch (pt2).

A file maps uint8 images (B, C, H, W) of any number to ``class``, ``probabilities`` and θ, with the normalization
inside, and names its classes and the preprocessing. Before it is written, it is compared with the model on test images.
"""

import io
import json
import re
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import Model
from torch.export import ExportedProgram

from pipelines.outputs.prepared_data import load_split
from pipelines.registry.model_metadata import ModelMetadata
from pipelines.registry.prepared_by_digest import WHERE, find_prepared
from pipelines.registry.versions import HOW_TO_REGISTER, fetch_files, find_version
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.runtime.files import write_bytes
from pipelines.tracking.client import connect

OPSET = 18  # with opset 20, TensorRT samples the nearest pixel without a word
IMAGES = 256  # test images that the file and the model are compared on
TOLERANCE = 1e-3  # largest difference of a probability, or of a number of θ
ENTRY = "metadata.json"  # in a pt2 file


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image file before the model.

    Args:
        mode: ``L`` (gray) or ``RGB``, for PIL; transparent parts become white.
        size: (height, width) that the image is converted to, with PIL's antialiased bilinear filter.
        fit, fill: how an image of another aspect ratio is converted, see
            :class:`~pipelines.settings.image_form.ImageForm`.
        pixel_range: values that are black and white in images with more than 8 bits; None: those of their type.
        canvas: (height, width) of the model's input, a black canvas that the image is placed in the middle of.
        layout: order of the input's dimensions.
        dtype: type of the input. Pixels are from 0 to 255; the model normalizes them.
    """

    mode: str
    size: tuple[int, int]
    canvas: tuple[int, int]
    fit: str = "stretch"
    fill: Any = 0
    pixel_range: Any = None
    layout: str = "NCHW"
    dtype: str = "uint8"

    @classmethod
    def of(cls, metadata: ModelMetadata) -> "Preprocessing":
        """Return the preprocessing of a model."""
        form, (channels, height, width) = metadata.form, metadata.image_shape
        mode, pixel_range = "L" if channels == 1 else "RGB", metadata.pixel_range
        return cls(mode, (form.height, form.width), (height, width), form.fit, form.fill, pixel_range)


class Exported(NamedTuple):
    """A written file.

    Args:
        path: the file.
        label: names the version.
        differences: largest difference between the file and the model, by output.
        images: number of test images they were compared on.
    """

    path: Path
    label: str
    differences: Mapping[str, float]
    images: int


def export_version(name: str, wanted: str, file_format: str, out: Path | None) -> Exported:
    """Write a version of a registered model as one file.

    Args:
        name: registered model.
        wanted: number or alias of the version.
        file_format: ``onnx`` or ``pt2``.
        out: the file; None: ``<name>-<version>.<format>`` in the current folder.

    Raises:
        UserError: there is no such model or version, or its test images are not on this machine.
        ExternalError: the version's files are damaged, the network has an operation that ONNX lacks, or the file's
            outputs differ from the model's. Nothing is written then.
    """
    version = find_version(connect(), name, wanted)
    label = f"{name}, version {version.version} ({version.tags['variant']})"
    with tempfile.TemporaryDirectory() as folder:
        images = _test_images(version, Path(folder) / "prepared")
        path = fetch_files(version, Path(folder) / "model")
        stored = Model.load(str(path)).metadata
        if not stored:
            raise ExternalError(f"{label} is too old: it does not name its classes; {HOW_TO_REGISTER}")
        program = torch.export.load(next(path.rglob("network.pt2")))
        metadata = describe_version(version, ModelMetadata.from_json(stored))
        expected = run_program(program, images)
        content = (to_onnx if file_format == "onnx" else to_pt2)(program, list(expected), metadata)
        found = (run_onnx if file_format == "onnx" else run_pt2)(content, images)
    differences = compare(expected, found, label)
    target = out or Path(f"{name}-{version.version}.{file_format}")
    write_bytes(target, content)
    return Exported(target, label, differences, len(images))


def _test_images(version: ModelVersion, target: Path) -> np.ndarray:
    digest = version.tags.get("data_digest", "unknown")
    if (found := find_prepared(digest, target)) is None:
        raise UserError(
            f"MODEL: version {version.version} of {version.name} is compared with its file on the test images of the "
            f"data {digest[:12]}, which are {WHERE}"
        )
    return load_split("test", found).images[:IMAGES].clone().numpy()


def describe_version(version: ModelVersion, metadata: ModelMetadata) -> dict[str, str]:
    """Return the metadata of a file, as texts: those of ``classes`` and ``preprocessing`` are JSON."""
    return {
        "model": version.name,
        "version": str(version.version),
        "variant": metadata.variant,
        "digest": version.tags.get("model_digest", "unknown"),
        "classes": json.dumps(list(metadata.classes), ensure_ascii=False),
        "preprocessing": json.dumps(asdict(Preprocessing.of(metadata))),
    }


def to_onnx(program: ExportedProgram, outputs: list[str], metadata: Mapping[str, str]) -> bytes:
    """Convert an exported program to ONNX with a dynamic batch.

    Raises:
        ExternalError: it has an operation that ONNX lacks.
    """
    import onnx
    from torch.onnx import OnnxExporterError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter, about its own parts
            converted = torch.onnx.export(
                program, (), dynamo=True, opset_version=OPSET, input_names=["images"], output_names=outputs,
                verbose=False,
            )  # fmt: skip
    except OnnxExporterError as error:
        raise ExternalError(
            f"{metadata['variant']}: the network cannot be exported to ONNX: {_reason(error)}; FORMAT=pt2 can be"
        ) from error
    assert converted is not None
    model = converted.model_proto
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    if opsets != {"": OPSET}:
        raise ExternalError(f"{metadata['variant']}: the network needs the operators of {opsets}, not of opset {OPSET}")
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = "batch"
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _reason(error: BaseException) -> str:
    """Return the operations that an error of the exporter names, else its last line."""
    chain: list[str] = []
    while error is not None:
        chain.append(str(error))
        error = error.__cause__  # pyright: ignore[reportAssignmentType]
    text = "\n".join(chain)
    named = re.findall(
        r"(?:op(?:erator|eration)?[=\s:'\"]+|for )<?(?:OpOverload\(op=)?'?([a-z_]\w*(?:\.|::)[\w.]+)", text
    )
    return f"no operation for {', '.join(dict.fromkeys(named))}" if named else chain[-1].strip().splitlines()[-1]


def to_pt2(program: ExportedProgram, outputs: list[str], metadata: Mapping[str, str]) -> bytes:
    """Return an exported program as the content of a pt2 file, with the metadata in its entry :data:`ENTRY`."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={ENTRY: json.dumps(dict(metadata))})
    return buffer.getvalue()


def run_onnx(content: bytes, images: np.ndarray) -> dict[str, np.ndarray]:
    """Run an ONNX model on the CPU: all images at once, and the first again alone."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, _with_first(lambda batch: session.run(None, {"images": batch}), images), strict=True))


def run_pt2(content: bytes, images: np.ndarray) -> dict[str, np.ndarray]:
    """Run a pt2 file on the CPU: all images at once, and the first again alone."""
    return run_program(torch.export.load(io.BytesIO(content)), images)


def run_program(program: ExportedProgram, images: np.ndarray) -> dict[str, np.ndarray]:
    """Run an exported program on the CPU: all images at once, and the first again alone."""
    network = program.module()
    names: list[str] = []

    def run(batch: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            outputs = network(torch.from_numpy(batch))
        names[:] = outputs
        return [value.numpy() for value in outputs.values()]

    values = _with_first(run, images)
    return dict(zip(names, values, strict=True))


def _with_first(run: Any, images: np.ndarray) -> list[np.ndarray]:
    """Return outputs for all images, in which those of the first image come from a batch of its own."""
    return [np.concatenate((alone, many[1:])) for alone, many in zip(run(images[:1]), run(images), strict=True)]


def compare(expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], label: str) -> dict[str, float]:
    """Return the largest difference of each output except ``class``.

    Raises:
        ExternalError: outputs are missing, a difference is larger than :data:`TOLERANCE`, or classes differ of images
            whose most probable classes are further apart than that.
    """
    if expected.keys() != found.keys():
        raise ExternalError(f"{label}: the file has the outputs {', '.join(found)}, not {', '.join(expected)}")
    differences = {
        name: float(np.abs(values - found[name]).max()) for name, values in expected.items() if name != "class"
    }
    for name, difference in differences.items():
        if not difference <= TOLERANCE:  # NaN as well
            raise ExternalError(
                f"{label}: {name} of the file differs from the model's by up to {difference:.2g}; nothing was written"
            )
    best, second = np.sort(expected["probabilities"], 1)[:, :-3:-1].T
    unequal = (expected["class"] != found["class"]) & (best - second > 2 * TOLERANCE)
    if unequal.any():
        raise ExternalError(f"{label}: the file gives {unequal.sum()} images another class; nothing was written")
    return differences
