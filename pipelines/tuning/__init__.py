"""Optuna study of the localization network on Ray workers."""

import pipelines.training  # noqa: F401 (sets the environment that Ray reads when it is imported)
