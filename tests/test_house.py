"""Limits on the size of files, classes and signatures in pipelines/ and stn/, and idioms that are not used there."""

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAX_FILE_LINES, MAX_CLASS_LINES, MAX_POSITIONAL = 300, 120, 5
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@cache
def sources() -> dict[str, str]:
    """The text of each Python file of pipelines/ and stn/."""
    files = [path for package in ("pipelines", "stn") for path in sorted((ROOT / package).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}


def nodes() -> Iterator[tuple[str, ast.AST]]:
    """All syntax nodes of these files, each with its file."""
    for file, text in sources().items():
        for node in ast.walk(ast.parse(text)):
            yield file, node


def positional(function: Function) -> int:
    """The number of positional parameters, ``self`` and ``cls`` included."""
    return len(function.args.posonlyargs) + len(function.args.args)


def is_static(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(isinstance(name, ast.Name) and name.id == "staticmethod" for name in function.decorator_list)


def test_no_file_is_too_long():
    lengths = {file: len(text.splitlines()) for file, text in sources().items()}
    assert len(lengths) > 80
    assert {file: length for file, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_no_class_is_too_long():
    lengths = {
        f"{file}: {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for file, node in nodes()
        if isinstance(node, ast.ClassDef)
    }
    assert len(lengths) > 80
    assert {name: length for name, length in lengths.items() if length > MAX_CLASS_LINES} == {}


def test_no_function_has_too_many_positional_parameters():
    """Keyword-only parameters do not count, and neither does a method's ``self``."""
    methods, counts = set(), {}
    for file, node in nodes():  # a class comes before its methods
        if isinstance(node, ast.ClassDef):
            functions = (part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef))
            methods |= {(file, method.lineno) for method in functions if not is_static(method)}
        elif isinstance(node, Function):
            name = "lambda" if isinstance(node, ast.Lambda) else node.name
            own = not isinstance(node, ast.Lambda) and (file, node.lineno) in methods
            counts[f"{file}:{node.lineno} {name}"] = positional(node) - own
    assert len(counts) > 500
    assert {name: count for name, count in counts.items() if count > MAX_POSITIONAL} == {}


def test_the_checks_find_what_they_look_for():
    """Methods, nested functions and lambdas are counted alike."""
    tree = ast.parse("class A:\n  def f(self, a, /, b, *, c): return lambda d, e: 0\n  @staticmethod\n  def g(h): 0\n")
    found = [(positional(node), isinstance(node, ast.Lambda)) for node in ast.walk(tree) if isinstance(node, Function)]
    assert sorted(found) == [(1, False), (2, True), (3, False)]
    (tree,) = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert [is_static(node) for node in tree.body if isinstance(node, ast.FunctionDef)] == [False, True]


def test_no_module_runs_load_params_as_its_main():
    """`python -m pipelines.settings.params` would only check params.yaml; every stage does that."""
    calls = (node for _, node in nodes() if isinstance(node, ast.Call))
    assert "run_main(load_params)" not in {ast.unparse(call) for call in calls}


def test_imports_out_of_place_have_no_waiver():
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    waivers = [lint.get("ignore", []), *lint.get("per-file-ignores", {}).values()]
    assert "E" in lint["select"] and not [rule for rules in waivers for rule in rules if rule.startswith("E4")]
    assert {file for file, text in sources().items() if "noqa: E402" in text} == set()


def test_the_metadata_of_prepared_data_is_typed():
    """``meta.classes``, not ``meta["classes"]``."""
    found = set()
    for file, node in nodes():
        if file.startswith("pipelines/") and isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            name = getattr(node.value, "id", getattr(node.value, "attr", ""))
            if name == "meta" and isinstance(node.slice.value, str):
                found.add(f"{file}:{node.lineno} {ast.unparse(node)}")
    assert found == set()
