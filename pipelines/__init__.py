"""The workflow: one module for each DVC stage, and the few that they share."""
