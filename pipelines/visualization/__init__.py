"""Figures, animations and the report."""
