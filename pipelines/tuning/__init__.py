"""The Optuna study of the localization network."""
