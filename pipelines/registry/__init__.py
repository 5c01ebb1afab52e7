"""The model registry: versions of registered models, their champion, and where they come from."""
