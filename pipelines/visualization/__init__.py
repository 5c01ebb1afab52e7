"""Figures, animations and the HTML report."""

import matplotlib

# Names of classes and variants are drawn as they are, not as formulas between dollar signs.
matplotlib.rcParams["text.parse_math"] = False
