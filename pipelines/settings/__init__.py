"""Typed, checked settings of params.yaml and variants/*.yaml; imports neither torch nor Ray."""
