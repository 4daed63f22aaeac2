"""Reports: what was measured, as one self-contained HTML page that holds its numbers as JSON."""

from featx.reporting.data import FeatureMap, ReportData
from featx.reporting.learning import RowSet, fits_of_curve, learning_curve
from featx.reporting.page import numbers, render, write_report
from featx.reporting.pictures import (
    choose_points,
    least_certain,
    project,
    thumbnail,
    worst_mistakes,
)

__all__ = [
    "FeatureMap",
    "ReportData",
    "RowSet",
    "choose_points",
    "fits_of_curve",
    "learning_curve",
    "least_certain",
    "numbers",
    "project",
    "render",
    "thumbnail",
    "worst_mistakes",
    "write_report",
]
