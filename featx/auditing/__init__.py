"""Checks of the data by features, labels, digests and pixels; arrays in, arrays out."""

from featx.auditing.estimate import Stratum, estimate_rate, review_sample
from featx.auditing.neighbours import Sketch, confirm_copies, nearest_rows, sketch_of, unit_rows
from featx.auditing.shift import Shift, find_shift
from featx.auditing.suspects import (
    LabelIssues,
    blurred,
    faults_of,
    find_outliers,
    label_issues,
    sharpness,
)

__all__ = [
    "LabelIssues",
    "Shift",
    "Sketch",
    "Stratum",
    "blurred",
    "confirm_copies",
    "estimate_rate",
    "faults_of",
    "find_outliers",
    "find_shift",
    "label_issues",
    "nearest_rows",
    "review_sample",
    "sharpness",
    "sketch_of",
    "unit_rows",
]
