"""The workflow: stages, their packages, and commands."""

import os

# GNU OpenMP reads it when torch is imported. By default, its threads spin long at barriers, which slows training beside
# other programs on the same cores. 10,000 rounds cost little on an idle machine. 1,000 rounds cost a quarter there in
# bf16, whose steps are short, and no spin at all (OMP_WAIT_POLICY=passive) a third. Measured by benchmarks/threads.py.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
