"""Paths of the report and the pictures that the stage visualize writes."""

from pathlib import Path

PICTURES = Path("reports/pictures")
REPORT = Path("reports/report.html")
