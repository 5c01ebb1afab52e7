"""Use of registered models: predictions for image files, and the scoring server."""
