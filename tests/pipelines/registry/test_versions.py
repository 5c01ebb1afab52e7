"""Lookup of versions by number or alias, and verification of their files; see also test_promotion.py."""

import mlflow
import pytest

from pipelines.registry.export import DIGEST_TAG
from pipelines.registry.versions import fetch_files, find_version
from pipelines.runtime.errors import ExternalError, UserError

NAME = "stn-mine"


def test_found_by_number_and_by_alias(store):
    store.client.set_registered_model_alias(NAME, "challenger", "4")
    assert [str(find_version(store.client, NAME, wanted).version) for wanted in ("2", "champion", "challenger")] == [
        "2", "1", "4",
    ]  # fmt: skip


@pytest.mark.parametrize("wanted", ["6", "0", "best", ""])
def test_an_unknown_version_is_refused_with_the_known_ones(store, wanted):
    with pytest.raises(UserError, match=f"VERSION: '{wanted}' given; {NAME} has champion, 1, 2, 3, 4, 5"):
        find_version(store.client, NAME, wanted)
    with pytest.raises(UserError, match=rf"MODEL: 'other' given.*{NAME}"):
        find_version(store.client, "other", "1")


def test_mlflow_loads_the_fetched_files(store, tmp_path):
    path = fetch_files(find_version(store.client, NAME, "2"), tmp_path / "new")
    model = mlflow.pyfunc.load_model(str(path))
    assert model.metadata.metadata is not None
    assert model.metadata.metadata["classes"] == ["cat", "dog", "eel", "fox"]


def test_a_version_without_digests_is_not_loaded(store, tmp_path):
    version = find_version(store.client, NAME, "2")
    for tag in [tag for tag in version.tags if tag.startswith(DIGEST_TAG)]:
        store.client.delete_model_version_tag(NAME, "2", tag)
    with pytest.raises(ExternalError, match="has no tag sha256_"):
        fetch_files(find_version(store.client, NAME, "2"), tmp_path / "new")
