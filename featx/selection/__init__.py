"""Selection: splits, search, refit - who may see which rows. Knows neither torch nor h5py."""

from featx.selection.candidates import SearchResult, describe
from featx.selection.checks import check_rows, few_samples, leak_warnings
from featx.selection.hyperparameters import search
from featx.selection.splits import Split, SplitPlan, make_folds, make_split, strata_of

__all__ = [
    "SearchResult",
    "Split",
    "SplitPlan",
    "check_rows",
    "describe",
    "few_samples",
    "leak_warnings",
    "make_folds",
    "make_split",
    "search",
    "strata_of",
]
