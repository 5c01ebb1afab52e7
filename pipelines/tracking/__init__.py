"""MLflow runs: the connection to the tracking store, and the updates that are sent to it."""
