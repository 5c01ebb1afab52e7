"""The wheel: it has all code and data files of stn and pipelines, and works outside the source tree."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROGRAM = """
import jinja2
import pipelines.commands.promote, pipelines.prepare, stn
from pipelines.visualization.report import TEMPLATE
jinja2.Environment().parse(TEMPLATE.read_text(encoding="utf-8"))
print(stn.__file__, pipelines.prepare.__file__, pipelines.commands.promote.__file__, TEMPLATE, sep="\\n")
"""


@pytest.mark.slow
def test_a_wheel_is_complete_and_imports_from_anywhere(copy_of_project, tmp_path):
    source = copy_of_project.folder
    copy_of_project.run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
        "--disable-pip-version-check", f"--wheel-dir={tmp_path}", str(source),
    )  # fmt: skip
    (wheel,) = tmp_path.glob("stn_pipelines-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    packed = {path.relative_to(tmp_path / "installed").as_posix() for path in (tmp_path / "installed").rglob("*.*")}
    tracked = copy_of_project.run("git", "ls-files", "stn", "pipelines").stdout.splitlines()
    assert {file for file in packed if ".dist-info" not in file} == set(tracked)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=elsewhere, env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = [Path(line) for line in done.stdout.splitlines()]
    assert len(files) == 4 and all(file.is_relative_to(tmp_path / "installed") for file in files), files
