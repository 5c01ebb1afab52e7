"""Versions of registered models, and the champion among them."""
