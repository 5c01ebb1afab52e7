"""Checks that refuse an impossible training before any work starts."""

import torch

from pipelines.networks.build import check_network, has_batch_norm
from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.runtime.errors import UserError
from pipelines.settings.params import Params
from pipelines.settings.variants import BackboneParams, VariantParams, variant_file
from pipelines.training.worker_plan import WorkerPlan
from stn.captured_step import reason_against_capture

# The code that a training's result depends on.
CODE = (
    "stn", "pipelines/networks", "pipelines/training", "pipelines/outputs/prepared_data.py",
    "pipelines/outputs/labeled_files.py",
)  # fmt: skip


def check_trainable(name: str, params: Params, variant: VariantParams, meta: DatasetMeta) -> None:
    """Refuse settings that do not fit the prepared data.

    Raises:
        UserError: other data are prepared, a kernel is larger than the image, or a batch is larger than the data.
    """
    if meta.dataset != params.data.dataset:
        raise UserError(
            f"data.dataset: {params.data.dataset} given, prepared is {meta.dataset}; run: dvc repro prepare"
        )
    check_network(name, variant, meta.image_shape, len(meta.classes))
    images = meta.counts["train"] + params.train.final_fit * meta.counts["validation"]
    batch_size = params.train.batch_size
    if batch_size > images:
        raise UserError(f"train.batch_size: {batch_size} given; there are {images} training images")


def check_weights(name: str, variant: VariantParams, meta: DatasetMeta) -> None:
    """Check that the pretrained weights of a variant can be loaded. This downloads them if timm has to.

    Raises:
        UserError: a file of weights is missing or is another one, or does not fit the network.
        ExternalError: weights cannot be downloaded.
    """
    parts = [variant.classifier, *(transformer.localization for transformer in variant.all_transformers.values())]
    if any(isinstance(part, BackboneParams) and part.pretrained is not False for part in parts):
        try:
            meta.network_builder(variant, load_weights=True)()
        except ValueError as error:
            raise UserError(f"{variant_file(name)}: {error}") from None


def check_shares(params: Params, workers: WorkerPlan, meta: DatasetMeta) -> None:
    """Refuse more workers than there are images in a batch or in the validation split.

    Raises:
        UserError: a worker would get no image.
    """
    images = min(params.train.batch_size, meta.counts["validation"])
    if workers.sharing > images:
        raise UserError(
            f"train.workers: {params.train.workers} given, which is {workers.sharing}; a batch or the validation "
            f"images, {images}, cannot be shared among them"
        )


def check_capture(params: Params, workers: WorkerPlan) -> None:
    """Refuse ``train.capture: on`` where a step cannot be captured.

    Raises:
        UserError: there is no GPU, or several workers share a batch.
    """
    device = torch.device("cuda" if workers.gpu else "cpu")
    reason = reason_against_capture(device, workers.most_sharing)
    if params.train.capture == "on" and reason:
        raise UserError(f"train.capture: on given; {reason}; set it to auto or off")


def check_batch_norm(name: str, params: Params, variant: VariantParams, meta: DatasetMeta, workers: WorkerPlan) -> None:
    """Refuse batch normalization over a single image.

    Raises:
        UserError: the share of a worker in a batch is one image, and the network has batch normalization.
    """
    batch_size = params.train.batch_size
    if batch_size // workers.most_sharing < 2:
        network = check_network(name, variant, meta.image_shape, len(meta.classes))
        if has_batch_norm(network):
            raise UserError(
                f"train.batch_size: {batch_size} given for {workers}; {variant_file(name)} has batch normalization, "
                f"which needs two images for each worker"
            )
