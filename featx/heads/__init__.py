"""Named heads: scikit-learn pipelines, the grid to search, and a line on when to use each."""

from featx.heads.head import LARGE_ROWS, NORMS, Grid, Head, make_norm, over_taps
from featx.heads.named import AUTO, HEADS, for_many, for_rows, get_head, option_of

__all__ = [
    "AUTO",
    "HEADS",
    "LARGE_ROWS",
    "NORMS",
    "Grid",
    "Head",
    "for_many",
    "for_rows",
    "get_head",
    "make_norm",
    "option_of",
    "over_taps",
]
