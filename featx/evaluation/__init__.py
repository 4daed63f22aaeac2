"""Evaluation: metrics with intervals, comparisons, decisions. Nothing here fits anything."""

from featx.evaluation.decisions import abstain_band, threshold_for_cost, threshold_for_precision
from featx.evaluation.measure import evaluate, intervals_of, json_ready
from featx.evaluation.pairing import baseline, compare_paired, over_repeats

__all__ = [
    "abstain_band",
    "baseline",
    "compare_paired",
    "evaluate",
    "intervals_of",
    "json_ready",
    "over_repeats",
    "threshold_for_cost",
    "threshold_for_precision",
]
