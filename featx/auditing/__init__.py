"""Checks of the data by features, labels, digests and pixels; arrays in, arrays out."""

from featx.auditing.copies import Sketch, confirm_copies, sketch_of
from featx.auditing.estimate import Stratum, estimate_rate, review_sample
from featx.auditing.faults import blurred, faults_of, find_outliers, sharpness
from featx.auditing.neighbours import nearest_rows, unit_rows
from featx.auditing.shift import Shift, find_shift
from featx.auditing.suspects import LabelIssues, label_issues

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
