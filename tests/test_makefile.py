"""Values that users give to make reach the commands as they are; neither make nor the shell runs any part of them."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipelines.commands.predict import split_names

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
# What make may put into a shell line; the values are constants of the Makefile.
OWN = {"AT_ONCE", "MAKEFILE_LIST", "WITH_ENV", "model", "version", "dry_run", "@"}
RECORDER = """#!/bin/sh
for argument; do printf '%s\\0' "$argument"; done >> calls
"""
VALUES = (
    "my cat", "it's", 'a "quoted" one', "$(touch ran)", "`touch ran`", "'; touch ran; '", '"; touch ran; "',
    "a;touch ran", "$(shell touch ran)", "${HOME}", "$$", "*", "#1", "a\\b", "&& touch ran", "x\n touch ran", "é",
)  # fmt: skip
# A target and variables that its command gets as a whole, all in one call.
TARGETS = [
    ("experiment", "FILE"), ("repro", "SOURCE"), ("tune", "TRIALS"), ("backup", "TO"), ("restore", "FROM"),
    ("account", "NAME", "PERMISSION"), ("summary", "VARIANT"), ("promote", "MODEL", "VERSION", "FORCE"),
    ("rollback", "MODEL", "REASON"), ("history", "MODEL"), ("provenance", "MODEL", "VERSION"),
    ("provenance", "COMMIT", "DATA"), ("reproduce", "MODEL", "VERSION"),
    ("serve", "MODEL", "VERSION", "PORT", "HOST", "RELOAD", "CORS"), ("play", "MODEL"),
    ("export", "MODEL", "VERSION", "FORMAT", "OUT"), ("score", "MODEL", "VERSION", "SOURCE", "OUT", "ACTORS"),
    ("predict", "MODEL", "IMAGES", "VERSION", "OUT"), ("dashboard", "DASHBOARD_PORT"), ("ui", "PORT"),
]  # fmt: skip


def recipes() -> str:
    """All lines of the Makefile that make hands to the shell."""
    return "\n".join(re.findall(r"^\t.*(?:\\\n.*)*", MAKEFILE, re.MULTILINE))


def test_no_variable_of_the_user_is_part_of_a_shell_line():
    used = re.findall(r"(?<!\$)(?:\$\$)*\$(?:\((\w+)[^)]*\)|\{(\w+)[^}]*\}|([^$({]))", recipes())
    assert {name for names in used for name in names if name} <= OWN
    for name in re.findall(r"^([a-z]\w*) :=", MAKEFILE, re.MULTILINE):
        assert name in OWN
    assert "history $(model)" in recipes()


@pytest.mark.parametrize("target", ["model", "version", "dry_run"])
def test_the_words_that_targets_share_are_quoted(target):
    (value,) = re.findall(rf"^{target} := (.*)$", MAKEFILE, re.MULTILINE)
    assert re.fullmatch(r'"\$\$\{\w+:-[\w-]+\}"|\$\$\{(\w+):\+--[\w-]+(="\$\$\1")?\}', value)


@pytest.fixture
def stub(tmp_path) -> Path:
    """A folder with the Makefile, whose programs only record how they are called."""
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    (tmp_path / "mlflow").mkdir()
    for place in ("python", "dvc", "optuna-dashboard"):
        (programs / place).write_text(RECORDER)
    (tmp_path / "mlflow/server.sh").write_text('#!/bin/sh\npython "$MLFLOW_PORT"\n')
    for program in (*programs.iterdir(), tmp_path / "mlflow/server.sh"):
        program.chmod(0o755)
    return tmp_path


def make(folder: Path, *arguments: str, **variables: str) -> tuple[list[str], str]:
    """Run make; returns all arguments of all programs that it called, and what was printed."""
    (folder / "calls").write_bytes(b"")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "-o", ".venv/.ready", *arguments], cwd=folder, env=env | variables, capture_output=True, text=True
    )
    return (folder / "calls").read_bytes().decode().split("\0")[:-1], done.stdout + done.stderr


@pytest.mark.parametrize("named", TARGETS, ids=" ".join)
def test_a_value_reaches_the_command_as_it_is(stub, named):
    """Each variable has each value once, on the command line and in the environment; no two have the same at once."""
    target, *variables = named
    for first in range(len(VALUES)):
        values = {name: VALUES[(first + i) % len(VALUES)] for i, name in enumerate(variables)}
        for arguments, environment in (([f"{name}={value}" for name, value in values.items()], {}), ([], values)):
            got, printed = make(stub, target, *arguments, **environment)
            for name, value in values.items():
                assert any(value in (argument, argument.partition("=")[2]) for argument in got), (name, printed)
            assert not (stub / "ran").exists(), values


@pytest.mark.parametrize(("target", "variable"), [("bench", "ONLY"), ("doctor", "NO_SUCH")])
def test_a_value_that_is_refused_is_not_run(stub, target, variable):
    for value in VALUES:
        for arguments, environment in (((f"{variable}={value}",), {}), ((), {variable: value})):
            _, printed = make(stub, target, *arguments, **environment)
            assert not (stub / "ran").exists(), value
            assert variable == "NO_SUCH" or f"error: {variable}: " in printed


def test_values_have_their_defaults(stub):
    assert make(stub, "history")[0][-1] == "stn-cifar10"
    assert make(stub, "history", "MODEL=")[0][-1] == "stn-cifar10"
    assert make(stub, "serve")[0][-2:] == ["stn-cifar10", "--port=5001"]
    assert make(stub, "ui")[0] == ["5000"]
    assert make(stub, "summary")[0][-1] == "stn"
    assert make(stub, "clean", "DRY_RUN=1")[0][-1] == "--dry-run"


def test_names_of_images_may_hold_spaces_and_quotes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("my cat.png", "it's.png", "b.png", "a[1].png"):
        (tmp_path / name).touch()
    assert split_names("my cat.png") == ["my cat.png"]
    assert split_names("'my cat.png' b.png") == ["my cat.png", "b.png"]
    assert split_names(r"my\ cat.png b.png") == ["my cat.png", "b.png"]
    assert split_names("it's.png b.png") == ["it's.png", "b.png"]
    assert split_names("a[1].png missing.png") == ["a[1].png", "missing.png"]
    assert split_names("*.png") == sorted(path.name for path in tmp_path.iterdir())
    assert split_names(f"{tmp_path}/b*.png") == [f"{tmp_path}/b.png"]
    assert split_names(" ") == []
