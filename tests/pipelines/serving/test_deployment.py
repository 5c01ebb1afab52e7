"""Versions behind aliases that move: the new one answers after it has been checked, the old one until then."""

import gc
import logging
import weakref

import numpy as np
import pytest
from mlflow.exceptions import MlflowException

from pipelines.registry.export import DIGEST_TAG
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.serving import deployment as module
from pipelines.serving.deployment import Deployment
from pipelines.serving.loaded_version import LoadedVersion, Outputs

NAME = "stn-mine"


def set_champion(store, version: str) -> None:
    store.client.set_registered_model_alias(NAME, "champion", version)


def test_a_champion_that_moved_is_taken_over(store):
    deployment = Deployment(store.client, NAME)
    before = deployment.default
    deployment.refresh()
    assert deployment.default is before, "it was loaded again, although nothing moved"
    set_champion(store, "2")
    assert deployment.default is before
    deployment.refresh()
    assert deployment.default.version.number == deployment.get("champion").version.number == "2"
    old = weakref.ref(before.version)
    del before
    gc.collect()
    assert old() is None, "the old version stays in memory"


def test_a_version_given_by_its_number_stays(store):
    deployment = Deployment(store.client, NAME, "3")
    set_champion(store, "2")
    deployment.refresh()
    assert deployment.default.version.number == "3"


def fails(self, pixels):
    raise RuntimeError("no such operator")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (fails, "it fails on a black image .no such operator"),
        (lambda self, pixels: Outputs(np.full((2, 4), np.nan), None), "not finite"),
        (lambda self, pixels: Outputs(np.zeros((2, 3)), None), "not finite numbers for each of its classes"),
    ],
)
def test_a_new_version_that_does_not_work_is_not_taken_over(store, monkeypatch, caplog, fault, reason):
    deployment = Deployment(store.client, NAME)
    set_champion(store, "2")
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(LoadedVersion, "predict", fault)
        deployment.refresh()
    assert deployment.default.version.number == "1"
    (record,) = caplog.records
    assert "champion stays version 1" in record.getMessage()
    with monkeypatch.context() as patch:
        patch.setattr(LoadedVersion, "predict", fault)
        with pytest.raises(ExternalError, match=reason):
            Deployment(store.client, NAME)
    deployment.refresh()  # mended
    assert deployment.default.version.number == "2"


def test_altered_files_and_a_missing_alias_leave_the_old_version(store, caplog):
    deployment = Deployment(store.client, NAME)
    store.client.set_model_version_tag(NAME, "2", f"{DIGEST_TAG}network.pt2", "0" * 64)
    set_champion(store, "2")
    with caplog.at_level(logging.ERROR):
        deployment.refresh()
        store.client.delete_registered_model_alias(NAME, "champion")
        deployment.refresh()
    assert deployment.default.version.number == "1"
    messages = [record.getMessage() for record in caplog.records]
    assert "network.pt2 differs" in messages[0] and "VERSION: 'champion' given" in messages[1]


@pytest.mark.parametrize(
    "error", [ConnectionError("no route"), MlflowException("no answer"), RuntimeError(""), KeyError("weights")]
)
def test_a_label_that_fails_does_not_stop_the_other(store, monkeypatch, caplog, error):
    store.client.set_registered_model_alias(NAME, "challenger", "4")
    deployment = Deployment(store.client, NAME, "challenger")
    deployment.get("champion")
    assert list(deployment.deployed) == ["challenger", "champion"]
    set_champion(store, "2")
    find = module.find_version

    def find_or_fail(client, name, label):
        if label == "challenger":
            raise error
        return find(client, name, label)

    monkeypatch.setattr(module, "find_version", find_or_fail)
    with caplog.at_level(logging.ERROR):
        deployment.refresh()
    assert deployment.get("champion").version.number == "2" and deployment.default.version.number == "4"
    (record,) = caplog.records
    assert record.getMessage() == f"challenger stays version 4: {str(error) or 'RuntimeError'}"


def test_a_version_that_mlflow_cannot_load_is_named(store, monkeypatch):
    def fail(path):
        raise RuntimeError("no such operator\nat line 3")

    monkeypatch.setattr("mlflow.pyfunc.load_model", fail)
    with pytest.raises(ExternalError, match=r"^version 1 of stn-mine: MLflow cannot load it \(no such operator\)$"):
        Deployment(store.client, NAME)


def test_the_challenger_is_loaded_when_it_is_first_asked_for(store, monkeypatch):
    store.client.set_registered_model_alias(NAME, "challenger", "4")
    loaded, load = [], module.load_found
    monkeypatch.setattr(module, "load_found", lambda version: loaded.append(str(version.version)) or load(version))
    deployment = Deployment(store.client, NAME)
    assert deployment.labels() == ["champion", "challenger"] and loaded == ["1"]
    assert deployment.get("challenger").version.number == "4"
    deployment.get("challenger")
    assert loaded == ["1", "4"]
    with pytest.raises(UserError, match="version: 'best' given; this server has champion, challenger"):
        deployment.get("best")
