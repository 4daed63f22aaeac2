"""Who may see which rows: the outer split."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import train_test_split

from featx.errors import FitError, nearest
from featx.selection.checks import check_groups, check_smallest
from featx.selection.folds import Rows, check_all_classes, grouped_folds, strata_of

FIT_ON = ("auto", "all", "train")
"""Rows of the head that is kept: see `SplitPlan`."""

_PARTS = {"train": 0, "validation": 1, "val": 1, "valid": 1, "test": 2}


class Split(NamedTuple):
    """Row numbers of each part; ``validation`` is None where the manifest names none."""

    train: Rows
    validation: Rows | None
    test: Rows


@dataclass(frozen=True)
class SplitPlan:
    """How rows are held out, normalised once.

    Parameters
    ----------
    split
        ``auto`` (the manifest's split if it has one), the name of a column, or the share of test
        rows.
    test_size
        Share of test rows where the manifest has no split; set by a number in ``split``.
    folds
        Inner folds of the search, and outer folds when ``nested``.
    repeats
        How often the whole is done again with another seed.
    nested
        Outer folds that cover every row, each with its own search, in place of one hold-out.
    seed
        Of every shuffle.
    groups
        Name of the column whose groups stay together.
    fit_on
        Rows of the head that is kept, once it was measured: ``all``; ``train``, which leaves the
        test rows out; or ``auto``: all, but for test rows that the source itself marks.

    few
        Take as many folds as the smallest class has rows, if those are fewer.

    Raises
    ------
    FitError
        For a share outside (0, 1), fewer than two folds, no repeat, or rows to fit on that are
        none of the above.

    Examples
    --------
    >>> SplitPlan("0.3").test_size
    0.3
    """

    split: str | float = "auto"
    test_size: float = 0.25
    folds: int = 5
    repeats: int = 1
    nested: bool = False
    seed: int = 0
    groups: str | None = None
    fit_on: str = "auto"
    few: bool = False

    def __post_init__(self) -> None:
        if self.fit_on not in FIT_ON:
            known = ", ".join(FIT_ON)
            raise FitError(
                f"--fit-on is {self.fit_on!r}{nearest(str(self.fit_on), FIT_ON)}; expected {known}"
            )
        if self.fit_on == "train" and self.nested:
            raise FitError(
                "--nested holds out every row in turn and leaves none for --fit-on train; leave "
                "out one of them"
            )
        try:
            share = float(self.split)
        except ValueError:
            share = self.test_size
        else:
            object.__setattr__(self, "split", "auto")
        object.__setattr__(self, "test_size", share)
        check_share(share)
        if self.folds < 2:
            raise FitError(f"the number of folds is {self.folds}; expected 2 or more")
        if self.repeats < 1:
            raise FitError(f"the number of repeats is {self.repeats}; expected 1 or more")


def check_share(share: float) -> None:
    """Raise unless ``share`` is a share of test rows."""
    if not 0 < share < 1:
        raise FitError(f"the share of test rows is {share:g}; expected a number between 0 and 1")


def make_split(
    y: ArrayLike,
    *,
    split: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    test_size: float = 0.25,
    seed: int = 0,
    task: str = "classification",
    strata: ArrayLike | None = None,
) -> Split:
    """Hold out test rows: by the manifest if it has a split, else stratified.

    Rows without a label must have been left out before.

    Parameters
    ----------
    y
        Shape (n_samples,); numbers are stratified by quantile bins.
    split
        ``train``, ``validation`` or ``test`` for each row. Without a ``test`` row the validation
        rows are the test; the search has folds of its own.
    groups
        Group of each row; no group is divided. The share of test rows is then approximate.
    test_size
        Share of test rows.
    strata
        What to stratify by in place of ``y``, for example class and type together.

    Returns
    -------
    train, validation, test : int arrays; validation may be None

    Raises
    ------
    FitError
        For an unknown split value, a part without rows, or a class with too few rows.

    Examples
    --------
    >>> train, validation, test = make_split([0, 1] * 20, test_size=0.25)
    >>> len(train), validation, len(test)
    (30, None, 10)
    """
    y = np.asarray(y)
    if split is not None:
        return _manifest_split(np.asarray(split, dtype=object).ravel(), len(y))
    check_share(test_size)
    by = strata_of(y, task) if strata is None else np.asarray(strata)
    codes = check_groups(groups, len(y))
    train, test = (
        _stratified(by, test_size, seed) if codes is None else _grouped(by, codes, test_size, seed)
    )
    if task == "classification":
        check_all_classes(y, train)
    return Split(train, None, test)


def _manifest_split(column: NDArray[Any], n: int) -> Split:
    if len(column) != n:
        raise FitError(f"there are {n} rows and {len(column)} split values; expected as many")
    names = [str(v).strip().lower() for v in column]
    for row, name in enumerate(names):
        if name not in _PARTS:
            raise FitError(
                f"split of row {row} is {column[row]!r}{nearest(name, _PARTS)}; expected train, "
                "validation or test"
            )
    part = np.array([_PARTS[name] for name in names])
    train, validation, test = (np.flatnonzero(part == k) for k in range(3))
    if not len(test):
        test, validation = validation, test
    for what, rows in (("train", train), ("test", test)):
        if not len(rows):
            raise FitError(f"the split column holds no {what} row; mark some, or pass a share")
    return Split(train, validation if len(validation) else None, test)


def _stratified(by: NDArray[Any], test_size: float, seed: int) -> tuple[Rows, Rows]:
    check_smallest(by, 2, "a training and a test part")
    n, n_strata = len(by), len(np.unique(by))
    n_test = int(np.ceil(test_size * n))
    if min(n_test, n - n_test) < n_strata:
        raise FitError(
            f"{n_test} test rows of {n} cannot hold a row of each of {n_strata} classes on both "
            "sides; change the share of test rows or add images"
        )
    train, test = train_test_split(
        np.arange(n), test_size=test_size, random_state=seed, stratify=by
    )
    return np.sort(train), np.sort(test)


def _grouped(by: NDArray[Any], codes: Rows, test_size: float, seed: int) -> tuple[Rows, Rows]:
    # A share of a/b is a of b grouped folds; b cannot exceed the number of groups.
    n_groups = len(np.unique(codes))
    part = Fraction(test_size).limit_denominator(min(10, n_groups))
    part = min(max(part, Fraction(1, min(10, n_groups))), Fraction(n_groups - 1, n_groups))
    folds = grouped_folds(by, codes, part.denominator, seed)
    test = np.sort(np.concatenate([fold for _, fold in folds[: part.numerator]]))
    return np.setdiff1d(np.arange(len(by)), test), test
