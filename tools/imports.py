"""Count the dependencies between packages from import statements, and check the import rule.

    python -m tools.imports

The rule: packages import only from the layers below them. Prints the numbers of modules, packages and package edges,
and each import that breaks the rule. Imports inside functions count as well.
"""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# From the lowest layer to the highest; a package imports only from lower layers.
LAYERS = (
    ("stn", "pipelines.runtime"),
    ("pipelines.settings", "pipelines.tracking"),
    ("pipelines.networks",),
    ("pipelines.outputs",),
    (
        "pipelines.preparation", "pipelines.training", "pipelines.tuning", "pipelines.evaluation",
        "pipelines.visualization", "pipelines.registry",
    ),
    ("pipelines.serving",),
    ("stages", "commands"),
)  # fmt: skip
# Packages of one layer do not import one another. The exceptions, as (importing, imported):
SAME_LAYER = {
    ("pipelines.tuning", "pipelines.training"),
    ("pipelines.tuning", "pipelines.visualization"),
    ("pipelines.registry", "pipelines.evaluation"),
}
# Imports from a lower layer that are also forbidden: file formats do not depend on the tracking store.
FORBIDDEN = {("pipelines.outputs", "pipelines.tracking")}
SERVICE_CHECKS = "pipelines.commands.service_checks"  # a part of doctor, which imports it


@cache
def modules() -> dict[str, Path]:
    """Modules of ``stn`` and ``pipelines``, with their files."""
    files = [file for package in ("stn", "pipelines") for file in sorted((ROOT / package).rglob("*.py"))]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


@cache
def imports_of(module: str) -> frozenset[str]:
    """The project's modules that ``module`` imports, at any place in its file."""
    return frozenset(name for name in imported_names(modules()[module]) if name in modules()) - {module}


def imported_names(file: Path) -> Iterator[str]:
    """Names of all modules that a file may import; of ``from a import b``, both ``a`` and ``a.b``."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def needed_by(module: str) -> frozenset[str]:
    """``module`` and all of the project's modules that it imports, directly or not, with each ``__init__``."""
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        waiting += imports_of(name)
        parts = name.split(".")
        waiting += [".".join(parts[:i]) for i in range(1, len(parts))]
    return frozenset(found)


def external_imports_of(package: str) -> set[str]:
    """Top-level names of third-party packages that the modules of ``package`` import."""
    names = {
        n.partition(".")[0] for m, file in modules().items() if package_of(m) == package for n in imported_names(file)
    }
    return names - set(sys.stdlib_module_names) - {"stn", "pipelines"}


def package_of(module: str) -> str:
    """The package of a module; ``stages`` for modules directly in pipelines/."""
    parts = module.split(".")
    if parts[0] == "stn":
        return "stn"
    if len(parts) == 1:
        return "pipelines"
    if len(parts) == 2 and modules()[module].name != "__init__.py":
        return "stages"
    return "commands" if parts[1] == "commands" else ".".join(parts[:2])


def edges() -> dict[tuple[str, str], list[str]]:
    """Imports between packages: (importing package, imported package) → list of ``module → module``."""
    found: dict[tuple[str, str], list[str]] = {}
    for module in modules():
        for other in imports_of(module):
            pair = package_of(module), package_of(other)
            if pair[0] != pair[1] and modules()[other].name != "__init__.py":
                found.setdefault(pair, []).append(f"{module} → {other}")
    return found


def _layer(package: str) -> int:
    return next(layer for layer, packages in enumerate(LAYERS) if package in packages)


def violations() -> list[str]:
    """Each import that breaks the rule, as ``module → module``."""
    wrong = []
    for (package, other), pairs in edges().items():
        allowed = _layer(other) < _layer(package) or (package, other) in SAME_LAYER
        if not allowed or (package, other) in FORBIDDEN or other in ("stages", "commands"):
            wrong += pairs
    for module in modules():  # stages do not import stages, commands do not import commands
        if package_of(module) in ("stages", "commands"):
            beside = (o for o in imports_of(module) if package_of(o) == package_of(module) and o != SERVICE_CHECKS)
            wrong += [f"{module} → {other}" for other in beside if modules()[other].name != "__init__.py"]
    return sorted(wrong)


def cycles() -> list[str]:
    """Modules that import themselves through other modules."""
    reach = {module: set(imports_of(module)) for module in modules()}
    changed = True
    while changed:
        changed = False
        for found in reach.values():
            more = set().union(*(reach[name] for name in found)) - found
            changed = changed or bool(more)
            found |= more
    return sorted(module for module, found in reach.items() if module in found)


def main() -> None:
    code = {module: file for module, file in modules().items() if file.name != "__init__.py"}
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in code.values()}
    longest = max(lines, key=lambda file: lines[file])
    classes = {
        f"{module}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module, file in code.items()
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    largest = max(classes, key=lambda name: classes[name])
    print(f"modules                {len(code)}")
    print(f"packages               {len({package_of(module) for module in code})} on {len(LAYERS)} layers")
    print(f"imports of modules     {sum(len(imports_of(module)) for module in code)}")
    print(f"edges between packages {len(edges())}")
    print(f"edges against the rule {len(violations())}")
    print(f"modules in a cycle     {len(cycles())}")
    print(f"longest file           {longest.relative_to(ROOT)}, {lines[longest]} lines")
    print(f"longest class          {largest}, {classes[largest]} lines")
    for line in [*violations(), *cycles()]:
        print(f"  {line}")


if __name__ == "__main__":
    main()
