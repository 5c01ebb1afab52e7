"""Checks and measurements on a GPU, with torch, numpy and PIL alone. See docs/gpu.md."""
