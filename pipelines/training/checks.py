"""What cannot be trained is refused before any work starts."""

from pipelines.networks.build import check_size
from pipelines.runtime.errors import UserError
from pipelines.settings.params import Params
from pipelines.settings.variants import VariantParams


def check_trainable(name: str, params: Params, variant: VariantParams, meta: dict) -> None:
    """Refuse what cannot be trained before any work starts.

    Raises:
        UserError: kernels larger than the image, or a batch larger than the data.
    """
    if meta["dataset"] != params.data.dataset:
        raise UserError(
            f"data.dataset: {params.data.dataset} given, prepared is {meta['dataset']}; run: dvc repro prepare"
        )
    check_size(name, variant, meta["image_shape"])
    images = meta["counts"]["train"] + params.train.final_fit * meta["counts"]["validation"]
    batch_size = params.train.batch_size
    if batch_size > images:
        raise UserError(f"train.batch_size: {batch_size} given; there are {images} training images")
