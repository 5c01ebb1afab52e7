"""From a variant's settings to a network."""
