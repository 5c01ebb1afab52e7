"""The workflow: stages, their packages, and commands."""

import os

# GNU OpenMP reads it when torch is imported. By default, its threads spin long at barriers, which slows training beside
# other programs on the same cores. A short spin costs little on an idle machine; no spin at all
# (OMP_WAIT_POLICY=passive) costs a quarter there. Measured by benchmarks/threads.py.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
