"""Benchmarks. Each script states its claim in its docstring. ``make bench`` runs them on the prepared CIFAR-10."""

import pipelines as pipelines  # before torch: it sets how OpenMP's threads wait
