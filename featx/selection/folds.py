"""Folds of training rows: stratified, and with groups kept whole."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import StratifiedKFold

from featx.errors import FitError
from featx.selection.checks import Warn, check_groups, check_smallest, warn

Rows = NDArray[np.intp]
Folds = list[tuple[Rows, Rows]]


def strata_of(y: ArrayLike, task: str, folds: int = 2) -> NDArray[Any]:
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


def _merge_small(strata: NDArray[Any], least: int) -> NDArray[Any]:
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


def check_all_classes(y: NDArray[Any], train: Rows) -> None:
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


def grouped_folds(by: NDArray[Any], codes: Rows, folds: int, seed: int) -> Folds:
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
