"""Checks before training: the code of other hosts, and whether each worker gets an image."""

import pytest

from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.runtime.errors import UserError
from pipelines.runtime.keys import digest_code
from pipelines.settings.params import load_params
from pipelines.settings.variants import VariantParams
from pipelines.training import host_checks
from pipelines.training.checks import CODE, check_batch_norm, check_shares
from pipelines.training.host_checks import check_same_code
from pipelines.training.worker_plan import WorkerPlan


def answering(monkeypatch, **changed: str) -> None:
    """Two other hosts that run the function sent to them, except that they return the digests in ``changed``."""
    monkeypatch.setattr(
        host_checks,
        "run_on_other_hosts",
        lambda function, *arguments: {
            f"10.0.0.{number}": changed.get(name, function(*arguments))
            for number, name in ((2, "second"), (3, "third"))
        },
    )


def test_hosts_with_the_same_code_are_accepted(monkeypatch):
    answering(monkeypatch)
    check_same_code()
    monkeypatch.setattr(host_checks, "run_on_other_hosts", lambda *_: {})
    check_same_code()


def test_a_host_with_other_code_is_refused_by_its_address(monkeypatch):
    answering(monkeypatch, third=digest_code(*CODE[1:]))
    with pytest.raises(UserError, match=r"RAY_ADDRESS: the code of stn, .* on host 10\.0\.0\.3 differs"):
        check_same_code()


@pytest.mark.parametrize(("batch_size", "validation"), [(4, 100), (64, 4)])
def test_more_workers_than_images_are_refused(batch_size, validation):
    params = load_params()
    params = params.model_copy(update={"train": params.train.model_copy(update={"batch_size": batch_size})})
    meta = DatasetMeta(
        dataset="tiny", source="", classes=["a"], image_shape=(1, 8, 8), counts={"validation": validation}, mean=[0.5],
        std=[0.5], distortion={}, duplicates={}, broken={}, digest="",
    )  # fmt: skip
    check_shares(params, WorkerPlan(4, 1, False, 4, 4), meta)
    with pytest.raises(UserError, match=r"train\.workers: .*which is 5; .*4, cannot be shared"):
        check_shares(params, WorkerPlan(5, 1, False, 5, 5), meta)


def test_batch_normalization_over_one_image_is_refused():
    params = load_params()
    params = params.model_copy(update={"train": params.train.model_copy(update={"batch_size": 7})})
    meta = DatasetMeta(
        dataset="tiny", source="", classes=["a", "b"], image_shape=(1, 28, 28), counts={}, mean=[0.5], std=[0.5],
        distortion={}, duplicates={}, broken={}, digest="",
    )  # fmt: skip
    normalizes = {"module": "own_networks.small_resnet:build"}
    with_norm = VariantParams.model_validate({"transformer": None, "classifier": normalizes})
    without = VariantParams.model_validate({"transformer": None})
    check_batch_norm("mine", params, with_norm, meta, WorkerPlan(3, 1, False, 3, 3))  # shares of 2 and 3 images
    check_batch_norm("mine", params, without, meta, WorkerPlan(4, 1, False, 4, 4))
    with pytest.raises(UserError, match=r"train\.batch_size: 7 given for 2 workers \(2 to 4\).*two images"):
        check_batch_norm("mine", params, with_norm, meta, WorkerPlan(2, 1, False, 2, 4))
