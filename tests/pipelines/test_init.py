"""Importing the package sets how OpenMP's threads wait, before torch is imported, unless the user has set it."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("active", "ACTIVE")])
def test_threads_wait_passively_unless_the_user_says_otherwise(given, expected):
    """As GNU OpenMP itself reports it when torch loads it."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_DISPLAY_ENV": "true"} | ({} if given is None else {"OMP_WAIT_POLICY": given})
    command = [sys.executable, "-c", "import pipelines.training.trainer"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    if "OMP_WAIT_POLICY" not in done.stderr:
        pytest.skip("this torch uses another OpenMP library, which does not show its settings")
    assert f"OMP_WAIT_POLICY = '{expected}'" in done.stderr
