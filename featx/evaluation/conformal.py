"""Sets of classes that hold the true one as often as promised, in every class.

Split conformal prediction with the probability as the score ("least ambiguous sets", Sadinle, Lei
and Wasserman 2019, https://doi.org/10.1080/01621459.2017.1395341), a cut for each class (Vovk 2012,
arXiv 1209.2673). MAPIE and crepes have the same; both bring their own way of fitting, and here the
head, its folds and its scale exist already, so that a quantile is left.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.errors import FitError
from featx.evaluation.resampling import wilson
from featx.typing import JsonObject

Cuts = dict[str, float | None]


def set_cuts(y: ArrayLike, probabilities: ArrayLike, classes: list[str], coverage: float) -> Cuts:
    """Find for each class the probability from which it is in a row's set.

    Parameters
    ----------
    y
        Shape (n_samples,), class names.
    probabilities
        Shape (n_samples, n_classes), by heads that had not seen the row.
    coverage
        Share of the new rows of each class whose set shall hold it, in (0, 1).

    Returns
    -------
    cuts : None for a class with too few rows, which is in every set

    Raises
    ------
    FitError
        If every class has too few rows; the message says how many it takes.

    Examples
    --------
    >>> table = np.array([[0.9, 0.1]] * 9 + [[0.3, 0.7]] * 9)
    >>> set_cuts(["a"] * 9 + ["b"] * 9, table, ["a", "b"], 0.8)
    {'a': 0.9, 'b': 0.7}
    """
    if not 0 < coverage < 1:
        raise FitError(f"--sets is {coverage:g}; expected a share in (0, 1), as 0.9")
    true, table = np.asarray(y), np.asarray(probabilities, dtype=np.float64)
    found: Cuts = {}
    for k, name in enumerate(classes):
        own = np.sort(table[true == name, k])
        # The rank that leaves the promised share of n + 1 exchangeable rows above; 1e-9 for 0.05.
        rank = math.floor((len(own) + 1) * (1 - coverage) + 1e-9)
        found[name] = float(own[rank - 1]) if rank else None
    if all(cut is None for cut in found.values()):
        require_rows(true, coverage)
    return found


def require_rows(y: ArrayLike, coverage: float) -> None:
    """Refuse labels of which no class has the rows that a cut takes.

    Raises
    ------
    FitError
        With the number of rows that it takes, and what these rows allow.
    """
    most = int(np.unique(np.asarray(y), return_counts=True)[1].max())
    if most < rows_for(coverage):
        raise FitError(
            f"sets that hold the true class in {coverage:.0%} of the rows take "
            f"{rows_for(coverage)} rows of a class, and the largest has {most}; ask for less, as "
            f"--sets {max(0.5, round(1 - 1 / (most + 1) - 0.005, 2)):g}, or add rows"
        )


def rows_for(coverage: float) -> int:
    """Count the rows of a class that a cut takes.

    Examples
    --------
    >>> rows_for(0.95), rows_for(0.9)
    (19, 9)
    """
    return math.ceil(1 / (1 - coverage) - 1e-9) - 1


def members(cuts: Cuts, classes: list[str], probabilities: ArrayLike) -> NDArray[np.bool_]:
    """Give which classes are in the set of each row: shape (n_samples, n_classes).

    A set may be empty: none of the classes is as likely as rows of it use to be.
    """
    bars = np.array([-np.inf if cuts[name] is None else cuts[name] for name in classes], np.float64)
    return np.asarray(np.asarray(probabilities, dtype=np.float64) >= bars)


def coverage_of(
    cuts: Cuts, classes: list[str], y: ArrayLike, probabilities: ArrayLike
) -> JsonObject:
    """Measure sets on rows that chose nothing.

    Returns
    -------
    figures : ``coverage`` with its interval, the mean ``size``, the share that is ``empty`` and the
        share with ``one`` class, and ``per_class`` the coverage of each
    """
    true, inside = np.asarray(y), members(cuts, classes, probabilities)
    at = np.array([classes.index(str(name)) for name in true])
    held = inside[np.arange(len(true)), at]
    sizes = inside.sum(axis=1)
    each = {name: _share(held[at == k]) for k, name in enumerate(classes)}
    return {
        "coverage": _share(held),
        "size": float(sizes.mean()),
        "empty": float((sizes == 0).mean()),
        "one": float((sizes == 1).mean()),
        "per_class": each,
    }


def _share(held: NDArray[np.bool_]) -> dict[str, float] | None:
    if not len(held):
        return None
    share = float(held.mean())
    return {"value": share, **wilson(share, len(held))}


def set_lines(found: JsonObject) -> list[str]:
    """Say what sets hold, and what they are worth on the test rows, in a line each."""
    test = found["test"]
    whole, each = test["coverage"], test["per_class"]
    said = ", ".join(f"{name} {one['value']:.4f}" for name, one in each.items() if one)
    return [
        f"sets hold the true class in {found['coverage']:.0%} of the new rows of each class "
        f"({found['chosen_on']})",
        f"on the test rows in {whole['value']:.4f} ({whole['low']:.4f} - {whole['high']:.4f}): "
        f"{said}; {test['size']:.2f} classes a set, {test['one']:.0%} with one, "
        f"{test['empty']:.0%} empty",
    ]
