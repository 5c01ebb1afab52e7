"""Importing the package shortens the spinning of OpenMP threads before torch is imported, unless the user set it."""

import os
import subprocess
import sys

import pytest

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "0")],
)
def test_threads_spin_briefly_unless_the_user_says_otherwise(given, expected):
    """As GNU OpenMP itself reports it when torch loads it."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | given
    environment |= {"OMP_DISPLAY_ENV": "verbose"}
    command = [sys.executable, "-c", "import pipelines.training.trainer"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this torch uses another OpenMP library, which does not show its settings")
    assert f"GOMP_SPINCOUNT = '{expected}'" in done.stderr
