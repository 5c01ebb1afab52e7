"""Commands that are not stages: ``python -m pipelines.commands.<name>``."""
