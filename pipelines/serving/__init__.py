"""A registered model in use."""
