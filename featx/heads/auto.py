"""The head ``auto``: several heads that compete on the same folds."""

from __future__ import annotations

import dataclasses

from featx.heads.head import LARGE_ROWS, Head
from featx.heads.named import HEADS

AUTO = Head(
    "auto",
    "classification",
    "the default: svm, logreg, ridge, and svm-rbf up to ten thousand images, whichever does best",
    HEADS["svm"].make,
    large=HEADS["svm"].large,
    options=tuple(HEADS[name] for name in ("svm", "logreg", "ridge", "svm-rbf")),
)
"""The first of equals wins, so the simplest heads come first."""


def for_rows(head: Head, n_samples: int) -> Head:
    """Leave out the options that take too long on so many rows; another head stays as it is.

    The number of rows decides and nothing else: the same cache gives the same options on every
    machine.

    Examples
    --------
    >>> [option.name for option in for_rows(AUTO, 20_000).options]
    ['svm', 'logreg', 'ridge']
    """
    if n_samples <= LARGE_ROWS:
        return head
    kept = tuple(option for option in head.options if option.name != "svm-rbf")
    return dataclasses.replace(head, options=kept)


def option_of(head: Head, name: str) -> Head:
    """Give the option that won; a head without options is itself."""
    return next((option for option in head.options if option.name == name), head)
