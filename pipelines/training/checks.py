"""What cannot be trained is refused before any work starts."""

from pipelines.networks.build import check_size
from pipelines.runtime.errors import UserError
from pipelines.runtime.keys import digest_code
from pipelines.settings.params import Params
from pipelines.settings.variants import VariantParams
from pipelines.training.cluster import on_other_hosts

# The code that a training's result depends on.
CODE = ("stn", "pipelines/networks", "pipelines/training")


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


def check_same_code() -> None:
    """Refuse a cluster with a host that has another version of the code that trains.

    Raises:
        UserError: a host's code differs from the driver's.
        ExternalError: a host does not answer.
    """
    here = digest_code(*CODE)
    others = [host for host, digest in on_other_hosts(digest_code, *CODE).items() if digest != here]
    if others:
        raise UserError(
            f"RAY_ADDRESS: the code of {', '.join(CODE)} on host {others[0]} differs from the code here; remove the "
            f"project from that host's Python path, so that Ray sends it the code of this folder"
        )
