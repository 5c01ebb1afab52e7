"""Where the stage visualize leaves its report and pictures."""

from pathlib import Path

PICTURES = Path("reports/pictures")
REPORT = Path("reports/report.html")
