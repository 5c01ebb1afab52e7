"""Commands that are not a stage: ``python -m pipelines.commands.<name>``."""
