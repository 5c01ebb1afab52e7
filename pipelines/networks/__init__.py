"""Build networks from a variant's settings."""
