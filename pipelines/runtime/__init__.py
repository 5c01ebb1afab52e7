"""Basis of every process: errors and exit codes, environment, home, files, keys, locks, progress."""
