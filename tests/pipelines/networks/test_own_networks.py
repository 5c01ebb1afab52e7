"""Networks of one's own: how they are found, what is refused, and which files they depend on."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipelines.networks import own_networks
from pipelines.networks.build import check_network
from pipelines.networks.own_networks import make_own_network, own_code
from pipelines.runtime.errors import UserError
from pipelines.runtime.keys import digest_code
from pipelines.settings.variants import OwnNetworkParams, VariantParams

SHIPPED = "own_networks.small_resnet:build"


def own(module: str, **options) -> VariantParams:
    return VariantParams.model_validate({"transformer": None, "classifier": {"module": module, "options": options}})


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Iterator[Path]:
    """An empty folder own_networks of another project."""
    place = tmp_path / "own_networks"
    place.mkdir()
    (place / "__init__.py").touch()
    monkeypatch.setattr(own_networks, "PROJECT", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "own_networks"]:
        monkeypatch.delitem(sys.modules, name)
    yield place
    for name in [name for name in sys.modules if name.partition(".")[0] == "own_networks"]:
        sys.modules.pop(name)


def test_the_shipped_example_classifies():
    network = make_own_network(
        (1, 28, 28), 7, 0.0, params=OwnNetworkParams(module=SHIPPED, options={"width": 4, "stride": 2})
    )
    assert network(torch.randn(2, 1, 28, 28)).shape == (2, 7)
    check_network("mine", own(SHIPPED, width=4), (3, 32, 32), 10)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("import no_such_package", {}, "cannot be imported: No module named 'no_such_package'"),
        ("def build(:", {}, "cannot be imported: invalid syntax"),
        ("other = 1", {}, "has no attribute 'build'"),
        ("def build(shape, classes): ...", {"width": 3}, "unexpected keyword argument 'width'"),
        ("def build(shape, classes): return 7", {}, "it returns int, no nn.Module"),
        (
            "from torch import nn\ndef build(shape, classes): return nn.Flatten()",
            {},
            r"returns \(2, 3072\) for 2",
        ),
        ("from torch import nn\ndef build(shape, classes): return nn.Linear(7, 1)", {}, "32"),
    ],
)
def test_a_network_that_does_not_work_is_refused_in_one_line(folder, text, options, message):
    (folder / "mine.py").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        check_network("mine", own("own_networks.mine:build", **options), (3, 32, 32), 10)
    assert str(error.value).startswith("variants/mine.yaml: ") and "\n" not in str(error.value)


def test_dropout_is_refused_rather_than_ignored():
    with pytest.raises(ValueError, match=r"train\.dropout: 0\.1 given"):
        make_own_network((1, 28, 28), 7, 0.1, params=OwnNetworkParams(module=SHIPPED))


def test_code_is_the_module_and_what_it_imports(folder):
    (folder / "parts").mkdir()
    for name, text in {
        "mine.py": "import math\nfrom own_networks.parts import blocks\nfrom . import shared",
        "parts/__init__.py": "", "parts/blocks.py": "from ..deep import x", "deep.py": "import own_networks.mine",
        "shared.py": "", "other.py": "",
    }.items():  # fmt: skip
        (folder / name).write_text(text)
    code = own_code(own("own_networks.mine:build").classifier)
    names = ("__init__", "mine", "parts/__init__", "parts/blocks", "deep", "shared")
    assert set(code) == {f"own_networks/{name}.py" for name in names}
    assert own_code(VariantParams.model_validate({"transformer": None}).classifier) == ()

    before = digest_code(*code, root=folder.parent)
    (folder / "other.py").write_text("changed = True")
    assert digest_code(*code, root=folder.parent) == before
    (folder / "deep.py").write_text("changed = True")
    assert digest_code(*code, root=folder.parent) != before
