"""MLflow's runs: how the tracking store is reached, and what is sent to it."""
