"""The documents against the project: links, commands, settings and paths that they name exist."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
GUIDES = ("README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
DOCUMENTS = (*GUIDES, "benchmarks/README.md")
PARAMS = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
SECTIONS = "|".join(name for name, value in PARAMS.items() if isinstance(value, dict))
FILE_ENDINGS = (".py", ".md", ".json", ".yaml", ".csv", ".png", ".html", ".safetensors")
STAGE_OUTPUTS = {"state", "models", "metrics", "plots", "reports"}
ARCHAIC = ("whatever", "of which", "is told", "are told")


class Document(NamedTuple):
    """A Markdown document: its text without code, its code spans, and its code blocks."""

    prose: str
    spans: tuple[str, ...]
    blocks: tuple[str, ...]

    def commands(self) -> Iterator[str]:
        """Code spans, and the lines of code blocks without their comments."""
        yield from self.spans
        for block in self.blocks:
            yield from (re.split(r"(?:^|\s)# ", line)[0] for line in block.splitlines())


@cache
def parse(path: Path) -> Document:
    """Split a Markdown file into prose and code."""
    fence = re.compile(r"^```.*?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    text = path.read_text(encoding="utf-8")
    unfenced = fence.sub("", text)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", unfenced)]
    return Document(re.sub(r"`[^`]+`", "", unfenced), tuple(spans), tuple(fence.findall(text)))


@cache
def anchors(path: Path) -> frozenset[str]:
    """The anchors that GitHub gives the headings of a Markdown file."""
    unfenced = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", unfenced, re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


def is_setting(dotted: str) -> bool:
    """Whether params.yaml has this setting or section."""
    value = PARAMS
    for name in dotted.split("."):
        if not isinstance(value, dict) or name not in value:
            return False
        value = value[name]
    return True


def ignored_by_git(paths: set[str]) -> set[str]:
    """The paths that .gitignore excludes: outputs of stages and of other commands."""
    command, lines = ["git", "check-ignore", "--no-index", "--stdin"], "\n".join(paths)
    listed = subprocess.run(command, cwd=ROOT, input=lines, text=True, capture_output=True)
    return set(listed.stdout.splitlines())


def missing(paths: set[str]) -> set[str]:
    """The paths that neither exist nor are outputs; ``<name>`` in a path stands for any name."""
    absent = {path for path in paths if not any(ROOT.glob(re.sub(r"<\w+>", "*", path).rstrip("/")))}
    # Patterns for folders match only what is in them.
    concrete = {re.sub(r"<(\w+)>", r"\1", path).rstrip("/") + "/x": path for path in absent}
    return absent - {concrete[path] for path in ignored_by_git(set(concrete))}


@pytest.mark.parametrize("name", [*DOCUMENTS, "CHANGELOG.md", "LOG.md"])
def test_every_link_leads_to_a_file_and_a_heading(name):
    path = ROOT / name
    for link in re.findall(r"\]\(([^)\s]+)\)", parse(path).prose):
        if "://" in link:
            continue
        place, _, anchor = unquote(link).partition("#")
        target = (path.parent / place).resolve() if place else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_make_target_exists(name):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {target for code in parse(ROOT / name).commands() for target in re.findall(r"\bmake ([a-z][a-z-]*)", code)}
    assert named <= targets


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_module_exists(name):
    for code in parse(ROOT / name).commands():
        for module in re.findall(r"python -m ([\w.]*\w)(?![\w.<])", code):
            if (ROOT / module.partition(".")[0]).is_dir():
                path = ROOT / module.replace(".", "/")
                assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
            else:
                assert find_spec(module.partition(".")[0]) is not None, module


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_setting_exists(name):
    document = parse(ROOT / name)
    named = {match[1] for span in document.spans if (match := re.match(rf"((?:{SECTIONS})(?:\.\w+)+)", span))}
    for code in document.commands():
        named |= set(re.findall(rf"(?<![\w./-])((?:{SECTIONS})(?:\.\w+)+)=", code))
    assert {setting for setting in named if not setting.endswith(FILE_ENDINGS) and not is_setting(setting)} == set()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_path_exists(name):
    folders = STAGE_OUTPUTS | {path.name for path in ROOT.iterdir() if path.is_dir()}
    tokens = {token for span in parse(ROOT / name).spans for token in span.split()}
    paths = {token for token in tokens if re.fullmatch(r"[\w.-]+(/[\w.<>*-]*)+", token)}
    assert missing({path for path in paths if path.partition("/")[0] in folders}) == set()


def test_the_recipes_for_contributors_name_code_that_exists():
    names = {span for span in parse(ROOT / "CONTRIBUTING.md").spans if re.fullmatch(r"\w*[A-Z_]\w*", span)}
    files = [file for folder in ("stn", "pipelines", "tests", "tools") for file in (ROOT / folder).rglob("*.py")]
    code = "\n".join(file.read_text(encoding="utf-8") for file in files if file.name != Path(__file__).name)
    assert len(names) > 10
    assert {name for name in names if not re.search(rf"\b{name}\b", code)} == set()


def test_the_tree_of_the_readme_exists():
    (tree,) = (block for block in parse(ROOT / "README.md").blocks if block.startswith("params.yaml"))
    paths, folder = set(), ""
    for line in tree.splitlines():
        names = [name for name in re.split(r" {2,}", line.strip())[0].split() if "/" in name or "." in name]
        if not line.startswith(" "):
            folder = names[0] if names[0].endswith("/") else ""
            paths |= set(names)
        else:
            paths |= {folder + name for name in names}
    assert len(paths) > 20
    assert missing(paths) == set()


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 150
    assert [line for line in lines if len(line) > 100 and not line.startswith("|") and "](" not in line] == []


@pytest.mark.parametrize("name", GUIDES)
def test_the_words_are_plain(name):
    text = " ".join((ROOT / name).read_text(encoding="utf-8").lower().split())
    assert [word for word in ARCHAIC if re.search(rf"\b{word}\b", text)] == []


def test_the_words_of_the_code_are_plain():
    folders = ("benchmarks", "experiments", "own_networks", "pipelines", "stn", "tests", "tools")
    paths = {path for folder in folders for path in (ROOT / folder).rglob("*.py")} - {Path(__file__).resolve()}
    texts = {path: " ".join(path.read_text(encoding="utf-8").lower().split()) for path in paths}
    found = {path.name: word for path, text in texts.items() for word in ARCHAIC if re.search(rf"\b{word}\b", text)}
    assert len(paths) > 100 and found == {}
