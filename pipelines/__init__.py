"""The workflow: stages, their packages, and commands."""

import os

# GNU OpenMP reads it when torch is imported. Its threads spin at barriers by default, for as long as it takes: beside
# other programs on the same cores two threads can then train a tenth as fast. A short spin costs little on an idle
# machine; no spin at all (OMP_WAIT_POLICY=passive) costs a fifth there. Measured by benchmarks/threads.py.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
