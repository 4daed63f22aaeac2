"""Checks of rows, labels, groups or a split, as one error or a list of warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.errors import FitError
from featx.typing import RowValues

Warn = dict[str, str]

FEW_ROWS = 10
"""Training rows below which a class is called small."""


def warn(code: str, message: str) -> Warn:
    """Make one entry of the ``warnings`` of a result."""
    return {"code": code, "message": message}


def check_rows(X: ArrayLike, y: ArrayLike, task: str = "classification") -> tuple[Any, Any]:
    """Check that features and labels can be fitted on.

    Parameters
    ----------
    X
        Shape (n_samples, n_features), any float type.
    y
        Shape (n_samples,), or (n_samples, n_labels) for ``multilabel``.

    Returns
    -------
    X : float32, shape (n_samples, n_features)
    y : shape as given

    Raises
    ------
    FitError
        For shapes that do not fit, NaN or infinite values, features that are the same in all rows,
        or one class only.

    Examples
    --------
    >>> X, y = check_rows([[0.0], [1.0]], ["a", "b"])
    >>> X.dtype.name
    'float32'
    """
    X, y = np.asarray(X), np.asarray(y)
    if X.ndim != 2 or X.shape[1] == 0:
        raise FitError(f"features have shape {X.shape}; expected (n_samples, n_features)")
    if len(X) != len(y):
        raise FitError(f"there are {len(X)} rows of features and {len(y)} labels; expected as many")
    # A float64 value beyond float32 becomes inf here, and is then named by its row.
    with np.errstate(over="ignore"):
        X = np.ascontiguousarray(X, dtype=np.float32)
    check_finite(X, "features")
    if len(X) > 1 and not np.ptp(X, axis=0).any():
        raise FitError(
            f"features are the same in all {len(X)} rows, so they tell nothing apart; look at the "
            "images, or extract another tap"
        )
    if task == "regression":
        y = np.asarray(y, dtype=np.float64)
        check_finite(y.reshape(len(y), -1), "labels")
    elif task == "multilabel":
        check_labels(y)
    else:
        check_classes(y)
    return X, y


def check_finite(values: NDArray[Any], what: str) -> None:
    """Raise if any row of ``values`` (2-D) has NaN or infinity."""
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise FitError(
            f"{what} hold NaN or infinity in {int(bad.sum())} of {len(values)} rows, first in row "
            f"{int(bad.argmax())}; extract these again or leave them out"
        )


def check_classes(y: RowValues) -> None:
    """Raise unless there are two classes at least."""
    classes = np.unique(y)
    if len(classes) < 2:
        found = f"only class {str(classes[0])!r}" if len(classes) else "no class"
        raise FitError(f"{len(y)} rows hold {found}; a classifier needs two or more classes")


def check_labels(y: RowValues, names: Sequence[str] = ()) -> None:
    """Raise, naming the label, unless each (a column) has two rows with it and two without."""
    for k, n in enumerate((y != 0).sum(axis=0).tolist()):
        if min(n, len(y) - n) < 2:
            raise FitError(
                f"label {names[k] if names else k!r} is on {n} of {len(y)} training rows; a "
                "classifier needs two rows with it and two without: add images of the rarer kind, "
                "or leave the label out"
            )


def check_smallest(y: RowValues, needed: int, what: str) -> None:
    """Raise, naming the class, if one has fewer than ``needed`` rows.

    Parameters
    ----------
    y
        Class of each training row.
    needed
        Rows that each class must have.
    what
        What needs them, as ``5 folds``.
    """
    classes, counts = np.unique(y, return_counts=True)
    least = int(counts.argmin())
    if counts[least] < needed:
        name, count = str(classes[least]), int(counts[least])
        fewer = f", or ask for {count} folds" if count >= 2 else ""
        raise FitError(
            f"class {name!r} has {count} row{'s' * (count != 1)}, and {what} need {needed} of each "
            f"class; add images of it, leave it out (fit and train: --rare drop){fewer}"
        )


def check_groups(groups: ArrayLike | None, n: int) -> NDArray[np.intp] | None:
    """Turn a column of groups into codes; a row without a group is a group of its own.

    Raises
    ------
    FitError
        If there are not as many groups as rows, or only one distinct group.
    """
    if groups is None:
        return None
    column = np.asarray(groups, dtype=object).ravel()
    if len(column) != n:
        raise FitError(f"there are {n} rows and {len(column)} groups; expected as many")
    names = np.array(
        [f"\0{i}" if g is None or g != g or g == "" else str(g) for i, g in enumerate(column)]
    )
    distinct, codes = np.unique(names, return_inverse=True)
    if len(distinct) < 2:
        raise FitError(
            f"the group column holds one group ({str(distinct[0])!r}) for all {n} rows, so no "
            "split can keep groups apart; name another column or fit without groups"
        )
    return codes.astype(np.intp)


def few_samples(y: RowValues, names: Sequence[str] = ()) -> list[Warn]:
    """Warn of classes with fewer than ``FEW_ROWS`` training rows.

    Parameters
    ----------
    names
        Of the columns of ``y``, where rows have several labels.
    """
    if y.ndim == 2:
        classes, counts = np.asarray(names), (y != 0).sum(axis=0)
    else:
        classes, counts = np.unique(y, return_counts=True)
    small = [f"{c} ({n})" for c, n in zip(classes, counts, strict=True) if n < FEW_ROWS]
    if not small:
        return []
    named = ", ".join(small[:5]) + (f" and {len(small) - 5} more" if len(small) > 5 else "")
    text = f"fewer than {FEW_ROWS} training rows in class {named}; their figures are uncertain"
    return [warn("few-samples", text)]


def unknown_classes(y_train: RowValues, y_test: RowValues) -> list[Warn]:
    """Name the classes that a split keeps from training.

    Examples
    --------
    >>> y_train, y_test = np.array(["a", "b"]), np.array(["a", "c", "c"])
    >>> unknown_classes(y_train, y_test)[0]["message"]
    '2 test rows are of classes without a training row (c), and count wrong'
    """
    names = np.setdiff1d(y_test, y_train)
    if not len(names):
        return []
    rows, shown = int(np.isin(y_test, names).sum()), ", ".join(map(str, names[:5]))
    text = f"{rows} test rows are of classes without a training row ({shown}), and count wrong"
    return [warn("unknown-classes", text)]


def has_single(y: RowValues) -> bool:
    """True if a class has one row."""
    return (
        y.ndim == 1 and y.dtype.kind == "U" and bool(np.unique(y, return_counts=True)[1].min() < 2)
    )


def fewer_folds(y: RowValues, planned: int) -> list[Warn]:
    """Warn if the rarest class has too few rows for the planned outer and inner folds."""
    classes, counts = np.unique(y, return_counts=True)
    if counts.min() - -(-counts.min() // planned) >= planned:
        return []
    name, n = str(classes[counts.argmin()]), int(counts.min())
    text = f"class {name!r} has {n} rows, which leaves few folds to choose by and to measure with"
    return [warn("fewer-folds", text)]


def few_test_rows(n: int) -> list[Warn]:
    """Warn of fewer than 30 test rows."""
    if n >= 30:
        return []
    return [warn("few-test-rows", f"{n} test rows leave every figure uncertain")]


def leak_warnings(
    train: NDArray[np.intp],
    test: NDArray[np.intp],
    *,
    digests: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    y: ArrayLike | None = None,
) -> list[Warn]:
    """Warn of what stands on both sides of a split.

    Parameters
    ----------
    train, test
        Row numbers.
    digests
        Content digest of each row: the same picture has the same digest.
    groups
        Group of each row, such as its patient; blank values are ignored.
    y
        Label of each row; twins with different labels are then counted too.

    Returns
    -------
    warnings : list of ``{"code", "message"}``
        Codes ``duplicates-across-split`` and ``groups-across-split``.

    Examples
    --------
    >>> import numpy as np
    >>> leak_warnings(np.array([0, 1]), np.array([2]), digests=["a", "b", "a"])[0]["code"]
    'duplicates-across-split'
    """
    found = []
    if digests is not None:
        column = np.asarray(digests, dtype=object)
        shared = _shared(column, train, test)
        if shared:
            rows = np.array([d in shared for d in column[test]])
            text = (
                f"{int(rows.sum())} of {len(test)} test images are byte for byte also among the "
                f"training images (first: row {int(test[rows.argmax()])})"
                f"{_twins(column, shared, y)}; the score is too good"
            )
            found.append(warn("duplicates-across-split", text))
    if groups is not None:
        shared = _shared(np.asarray(groups, dtype=object), train, test)
        if shared:
            named = ", ".join(sorted(map(str, shared))[:3])
            text = (
                f"{len(shared)} groups stand on both sides of the split ({named}"
                f"{', ...' if len(shared) > 3 else ''}); the score may be too good"
            )
            found.append(warn("groups-across-split", text))
    return found


def _shared(column: RowValues, train: NDArray[np.intp], test: NDArray[np.intp]) -> set[Any]:
    both = set(column[train]) & set(column[test])
    return {v for v in both if not (v is None or v != v or v in ("", b""))}


def _twins(column: RowValues, shared: set[Any], y: ArrayLike | None) -> str:
    if y is None:
        return ""
    labels: dict[Any, set[Any]] = {}
    for digest, label in zip(column, np.asarray(y).tolist(), strict=True):
        if digest in shared:
            labels.setdefault(digest, set()).add(str(label))
    odd = sum(len(v) > 1 for v in labels.values())
    return f", {odd} of them with different labels" if odd else ""
