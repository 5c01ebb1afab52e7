"""Every command prints its help before it imports anything heavy."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import commands

HEAVY = ("torch", "ray", "mlflow", "optuna")
# service_checks is a part of doctor.
NAMES = sorted({file.stem for file in Path(commands.__path__[0]).glob("*.py")} - {"__init__", "service_checks"})


@pytest.mark.parametrize("name", NAMES)
def test_help_is_printed_without_heavy_imports(name, tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", f"pipelines.commands.{name}", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(f"usage: python -m pipelines.commands.{name}"), done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if re.match("import time:", line)}
    assert imported and not imported & set(HEAVY)
