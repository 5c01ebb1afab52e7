"""The user's own networks, in the folder ``own_networks``."""

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from pipelines.runtime.keys import PROJECT
from pipelines.settings.variants import ClassifierParams, OwnNetworkParams

FOLDER = "own_networks"


def make_own_network(
    image_shape: tuple[int, int, int], classes: int, dropout: float, *, params: OwnNetworkParams
) -> nn.Module:
    """Call the user's function with the image shape, the number of classes and the variant's options.

    Args:
        image_shape: channels, height, width.
        classes: number of classes.
        dropout: must be 0; a network of your own has its own options.

    Raises:
        ValueError: the module cannot be imported, or the function fails or returns no module.
    """
    if dropout:
        raise ValueError(f"train.dropout: {dropout} given; {params.module} has no such setting, only its own options")
    module, _, name = params.module.partition(":")
    if str(PROJECT) not in sys.path:
        sys.path.insert(0, str(PROJECT))
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, SyntaxError, AttributeError) as error:
        raise ValueError(f"classifier.module: {params.module} given; it cannot be imported: {error}") from None
    try:
        network = function(image_shape, classes, **params.options)
    except TypeError as error:
        raise ValueError(f"classifier.module: {params.module} with options {params.options}: {error}") from None
    if not isinstance(network, nn.Module):
        raise ValueError(f"classifier.module: {params.module} given; it returns {type(network).__name__}, no nn.Module")
    return network


def own_code(classifier: ClassifierParams) -> tuple[str, ...]:
    """The files in ``own_networks`` that a classifier is made by, relative to the project.

    These are the file of its module, and the files in ``own_networks`` that it imports. Empty for other classifiers.
    """
    if not isinstance(classifier, OwnNetworkParams):
        return ()
    module, _, _ = classifier.module.partition(":")
    found: dict[str, None] = {}
    _collect(module, found)
    return tuple(found)


def _collect(module: str, found: dict[str, None]) -> None:
    for path in _files(module):
        name = path.relative_to(PROJECT).as_posix()
        if name not in found:
            found[name] = None
            for imported in _imports(path, module):
                _collect(imported, found)


def _files(module: str) -> Iterator[Path]:
    """The file of a module, and the ``__init__.py`` of each package around it."""
    *packages, _ = parts = module.split(".")
    if parts[0] != FOLDER:
        return
    for depth in range(1, len(packages) + 1):
        yield from _existing(PROJECT.joinpath(*parts[:depth], "__init__.py"))
    path = PROJECT.joinpath(*parts)
    yield from _existing(path.with_suffix(".py"))
    yield from _existing(path / "__init__.py")


def _existing(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path


def _imports(path: Path, module: str) -> Iterator[str]:
    """The names of modules that a file may import; names that are no modules have no file."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError:
        return  # the import reports it
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)
