"""Benchmarks: each a script with its claim at its head, `make bench` runs them all."""
