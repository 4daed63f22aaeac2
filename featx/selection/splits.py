"""Who may see which rows: the outer split, and the folds inside it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import StratifiedKFold, train_test_split

from featx.errors import FitError, nearest
from featx.selection.checks import Warn, check_groups, check_smallest, warn
from featx.typing import RowValues

FIT_ON = ("auto", "all", "train")
"""Rows of the head that is kept: see `SplitPlan`."""

_LEAST_OF_PART = 10  # rows of a class
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


def _manifest_split(column: RowValues, n: int) -> Split:
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


def _stratified(by: RowValues, test_size: float, seed: int) -> tuple[Rows, Rows]:
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


def _grouped(by: RowValues, codes: Rows, test_size: float, seed: int) -> tuple[Rows, Rows]:
    # A share of a/b is a of b grouped folds; b cannot exceed the number of groups.
    n_groups = len(np.unique(codes))
    part = Fraction(test_size).limit_denominator(min(10, n_groups))
    part = min(max(part, Fraction(1, min(10, n_groups))), Fraction(n_groups - 1, n_groups))
    folds = grouped_folds(by, codes, part.denominator, seed)
    test = np.sort(np.concatenate([fold for _, fold in folds[: part.numerator]]))
    return np.setdiff1d(np.arange(len(by)), test), test


Rows = NDArray[np.intp]
Folds = list[tuple[Rows, Rows]]


def strata_of(y: ArrayLike, task: str, folds: int = 2) -> RowValues:
    """Make the classes by which rows are stratified.

    Classes are their own strata; a number falls into one of up to ten quantile bins, each of at
    least ``folds`` rows; a multi-label row counts as the rarest of its labels.

    Returns
    -------
    strata : shape (n_samples,)
    """
    y = np.asarray(y)
    if task == "multilabel":
        rarity = np.where(y != 0, y.sum(axis=0), np.inf)
        strata = np.where((y != 0).any(axis=1), rarity.argmin(axis=1), -1)
        return _merge_small(strata, folds)
    if task != "regression":
        return y
    for bins in range(min(10, max(1, len(y) // (2 * folds))), 1, -1):
        edges = np.unique(np.quantile(y, np.linspace(0, 1, bins + 1)[1:-1]))
        strata = np.searchsorted(edges, y, side="right")
        if np.unique(strata, return_counts=True)[1].min() >= folds:
            return strata
    return np.zeros(len(y), dtype=np.intp)


def _merge_small(strata: RowValues, least: int) -> RowValues:
    values, codes, counts = np.unique(strata, return_inverse=True, return_counts=True)
    return np.where(counts[codes] < least, values[counts.argmax()], strata)


def make_folds(
    y: ArrayLike,
    *,
    folds: int = 5,
    groups: ArrayLike | None = None,
    seed: int = 0,
    task: str = "classification",
    strata: ArrayLike | None = None,
) -> tuple[Folds, list[Warn]]:
    """Make shuffled, stratified folds of training rows, grouped when asked.

    Returns
    -------
    folds : list of (train, held_out) row numbers
    warnings : list of ``{"code", "message"}``
        ``group-fallback`` if there are fewer groups than folds asked for.

    Raises
    ------
    FitError
        If there are fewer rows than folds, or a class has fewer.

    Examples
    --------
    >>> made, warnings = make_folds([0, 1] * 10, folds=5)
    >>> len(made), len(made[0][1]), warnings
    (5, 4, [])
    """
    y = np.asarray(y)
    if folds < 2:
        raise FitError(f"the number of folds is {folds}; expected 2 or more")
    if len(y) < folds:
        raise FitError(f"there are {len(y)} training rows and {folds} folds; use fewer folds")
    by = strata_of(y, task, folds) if strata is None else np.asarray(strata)
    codes = check_groups(groups, len(y))
    if codes is None:
        check_smallest(by, folds, f"{folds} folds")
        kfold = StratifiedKFold(folds, shuffle=True, random_state=seed)
        _, strata_codes = np.unique(by, return_inverse=True)
        return list(kfold.split(np.zeros(len(y)), strata_codes)), []
    n_groups, found = len(np.unique(codes)), []
    if n_groups < folds:
        found = [warn("group-fallback", f"{n_groups} groups allow {n_groups} folds, not {folds}")]
    made = grouped_folds(by, codes, min(folds, n_groups), seed)
    if task == "classification":
        for train, _ in made:
            check_all_classes(y, train)
    return made, found


def fold_of_part(
    y: RowValues, n: int, *, groups: RowValues | None, seed: int, task: str
) -> list[tuple[Rows, Rows]]:
    """Make one fold of about `n` rows drawn at random; the others are in no fold.

    Parameters
    ----------
    y
        Shape (n_samples,), more than `n` of them; classes are drawn by their shares.
    groups
        Group of each row; none is divided. No groups when None.
    """
    part = make_split(y, groups=groups, test_size=n / len(y), seed=seed, task=task).test
    if task == "classification":  # a class that hardly occurs in the part decides nothing
        names, counts = np.unique(y[part], return_counts=True)
        part = part[np.isin(y[part], names[counts >= _LEAST_OF_PART])]
    some = None if groups is None else groups[part]
    inner = make_split(y[part], groups=some, test_size=0.2, seed=seed, task=task)
    return [(part[inner.train], part[inner.test])]


def check_all_classes(y: RowValues, train: Rows) -> None:
    """Raise, naming the class, if the training rows of a grouped split lack one."""
    lost = np.setdiff1d(y, y[train])
    if len(lost):
        raise FitError(
            f"class {str(lost[0])!r} lies in so few groups that a split would train without it; "
            "add a group that holds it, leave it out, or name another group column"
        )


def hold_out_once(folds: Folds, n: int) -> bool:
    """Say whether folds hold out each of ``n`` rows exactly once."""
    held = np.concatenate([held for _, held in folds])
    return len(held) == n and len(np.unique(held)) == n


def grouped_folds(by: RowValues, codes: Rows, folds: int, seed: int) -> Folds:
    """Make folds that divide no group, each with about its share of every class."""
    _, strata = np.unique(by, return_inverse=True)
    largest = int(np.bincount(strata).max())
    if largest < folds:
        raise FitError(f"no class has the {folds} rows that {folds} folds need; use fewer folds")
    fold_of = _deal(strata, codes, folds, seed)[np.unique(codes, return_inverse=True)[1]]
    made = [(np.flatnonzero(fold_of != k), np.flatnonzero(fold_of == k)) for k in range(folds)]
    if any(not len(part) for fold in made for part in fold):
        raise FitError(
            f"{folds} folds cannot be made of {len(np.unique(codes))} groups of such sizes; use "
            "fewer folds"
        )
    return made


def _deal(strata: Rows, codes: Rows, folds: int, seed: int) -> Rows:
    """Deal groups to folds at random, each to the fold that has least of its classes.

    scikit-learn's StratifiedGroupKFold deals the groups in an order of its own, which its shuffle
    changes in ties only: two seeds mostly give one split, and repeats would repeat nothing.
    """
    groups, members = np.unique(codes, return_inverse=True)
    counts = np.zeros((len(groups), int(strata.max()) + 1))
    np.add.at(counts, (members, strata), 1)
    share = counts / counts.sum(axis=0)
    rng = np.random.default_rng(seed)
    size = counts.sum(axis=1)
    # The largest first, roughly, so that what comes last can still even the folds out.
    order = np.argsort(-size * rng.uniform(0.5, 1, len(groups)), kind="stable")
    held, fold_of = np.zeros((folds, counts.shape[1])), np.zeros(len(groups), dtype=np.intp)
    for group in order:
        fold_of[group] = np.argmin(held @ share[group] + 1e-9 * held.sum(axis=1))
        held[fold_of[group]] += share[group]
    renamed: Rows = rng.permutation(folds)[fold_of]
    return renamed
