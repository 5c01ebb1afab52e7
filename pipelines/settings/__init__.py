"""params.yaml and variants/*.yaml as typed, checked values; imports neither torch nor Ray."""
