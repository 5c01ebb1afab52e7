"""Versions found by number or alias, and files that are checked before they are loaded; see test_promote.py, too."""

import mlflow
import pytest

from pipelines import registry, tracking
from pipelines.errors import UserError, WorldError

NAME = "stn-mine"


def test_found_by_number_and_by_alias(store):
    store.client.set_registered_model_alias(NAME, "challenger", "4")
    assert [str(registry.find(store.client, NAME, wanted).version) for wanted in ("2", "champion", "challenger")] == [
        "2", "1", "4",
    ]  # fmt: skip


@pytest.mark.parametrize("wanted", ["6", "0", "best", ""])
def test_what_there_is_not_is_refused_with_what_there_is(store, wanted):
    with pytest.raises(UserError, match=f"VERSION: '{wanted}' given; {NAME} has champion, 1, 2, 3, 4, 5"):
        registry.find(store.client, NAME, wanted)
    with pytest.raises(UserError, match=rf"MODEL: 'other' given.*{NAME}"):
        registry.find(store.client, "other", "1")


def test_what_is_fetched_is_what_mlflow_loads(store, tmp_path):
    path = registry.fetch(registry.find(store.client, NAME, "2"), tmp_path / "new")
    model = mlflow.pyfunc.load_model(str(path))
    assert model.metadata.metadata is not None
    assert model.metadata.metadata["classes"] == ["cat", "dog", "eel", "fox"]


def test_a_version_without_digests_is_not_loaded(store, tmp_path):
    version = registry.find(store.client, NAME, "2")
    for tag in [tag for tag in version.tags if tag.startswith(tracking.DIGEST_TAG)]:
        store.client.delete_model_version_tag(NAME, "2", tag)
    with pytest.raises(WorldError, match="has no tag sha256_"):
        registry.fetch(registry.find(store.client, NAME, "2"), tmp_path / "new")
