"""The workflow: stages, their packages, and commands."""

import os

# GNU OpenMP reads it when torch is imported. Its threads spin at barriers by default: beside another program on the
# same cores two threads then train several times slower than with passive waiting. See benchmarks/threads.py.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
