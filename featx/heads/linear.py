"""A fitted head as weights on the features of one row, where it has that form."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.typing import Estimator

Floats = NDArray[np.float64]

_LINEAR = {
    "LogisticRegression",
    "LinearSVC",
    "RidgeClassifier",
    "LinearDiscriminantAnalysis",
    "SGDClassifier",
    "Ridge",
}


@dataclass(frozen=True)
class LinearForm:
    """Decisions of a head at one row: ``weights @ x + bias``.

    Parameters
    ----------
    weights
        float64, shape (n_outputs, n_features).
    bias
        float64, shape (n_outputs,).
    sides
        For each output, the class that a positive decision speaks for and the one that it speaks
        against; None where that is every other class, or a number is predicted.
    held
        What of the row itself is held fixed in the weights, in words.
    exact
        Whether the head is linear up to a factor of the whole row. A signed power is not: its
        weights are right at this row alone.
    """

    weights: Floats = field(repr=False)
    bias: Floats = field(repr=False)
    sides: tuple[tuple[str | None, str | None], ...]
    held: tuple[str, ...] = ()
    exact: bool = True


def linear_form(
    estimator: Estimator, x: NDArray[Any], labels: Sequence[str] = ()
) -> LinearForm | None:
    """Write a fitted head as weights on the features of a row.

    Standardisation and PCA are part of the weights. A row that is brought to length one is divided
    by its length; after a signed power each feature keeps the ratio that the power gave it.

    Parameters
    ----------
    estimator
        What `featx.fit` fitted; calibration is left out (`calibration_of` names it).
    x
        The row, shape (n_features,).
    labels
        Names of several labels, which the estimator only numbers.

    Returns
    -------
    form : None for a head that is not linear

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> head = Ridge(alpha=0).fit([[0.0], [1.0]], [1.0, 3.0])
    >>> form = linear_form(head, np.zeros(1))
    >>> form.weights.round(6).tolist(), form.bias.round(6).tolist()
    ([[2.0]], [1.0])
    """
    *before, last = _steps(uncalibrated(estimator))
    form = _last(last)
    if form is None:
        return None
    if getattr(last, "multilabel_", False) and labels:
        form = replace(form, sides=tuple((name, None) for name in labels))
    rows = [np.asarray(x, dtype=np.float64)]
    for step in before:
        rows.append(np.asarray(step.transform(rows[-1][None]), dtype=np.float64)[0])
    for step, row in zip(reversed(before), reversed(rows[:-1]), strict=True):
        made = _before(form, step, row)
        if made is None:
            return None
        form = made
    return form


def decisions(estimator: Estimator, X: NDArray[Any]) -> Floats | None:
    """Give the decisions of a head, in the columns of `LinearForm.sides`, before any calibration.

    Parameters
    ----------
    X
        Shape (n_samples, n_features).

    Returns
    -------
    decisions : shape (n_samples, n_outputs); None for a head without ``decision_function``
    """
    *before, last = _steps(uncalibrated(estimator))
    Z: Any = np.asarray(X, dtype=np.float64)
    for step in before:
        Z = step.transform(Z)
    if type(last).__name__ == "OneVsRestClassifier":
        each = [decisions(one, Z) for one in last.estimators_]
        return (
            None if any(d is None for d in each) else np.hstack([d for d in each if d is not None])
        )
    if hasattr(last, "decision_function_shape") and len(last.classes_) > 2:
        last = copy.copy(last)
        last.decision_function_shape, last.break_ties = "ovo", False
    give = getattr(last, "decision_function", None)
    if give is None and not hasattr(last, "classes_"):
        give = last.predict
    if give is None:
        return None
    found = np.asarray(give(Z), dtype=np.float64)
    return found[:, None] if found.ndim == 1 else found


def uncalibrated(estimator: Estimator) -> Any:
    """Give what calibration stands around; any other estimator is itself."""
    inner = getattr(estimator, "calibrated_classifiers_", None)
    return inner[0].estimator if inner is not None and len(inner) == 1 else estimator


def calibration_of(estimator: Estimator) -> str:
    """Name how decisions become probabilities: ``temperature``, ``sigmoid``, ``own`` or ``none``.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> calibration_of(Ridge())
    'none'
    """
    last = _steps(estimator)[-1]
    if type(last).__name__ == "OneVsRestClassifier":
        return calibration_of(last.estimators_[0])
    if hasattr(last, "calibrated_classifiers_"):
        return str(last.method)
    return "own" if hasattr(last, "predict_proba") else "none"


def _steps(estimator: Estimator) -> list[Any]:
    return list(_flat(estimator))


def _flat(estimator: Estimator) -> Iterator[Any]:
    if type(estimator).__name__ != "Pipeline":
        yield estimator
        return
    for _, step in estimator.steps:
        if step is not None and not isinstance(step, str):
            yield from _flat(step)


def _last(clf: Estimator) -> LinearForm | None:
    name = type(clf).__name__
    if name == "OneVsRestClassifier":
        return _several(clf)
    if name == "SVC" and clf.kernel == "linear":
        return _form(clf, _pairs(clf) if len(clf.classes_) > 2 else _sides(clf))
    return _form(clf, _sides(clf)) if name in _LINEAR else None


def _form(clf: Estimator, sides: tuple[tuple[str | None, str | None], ...]) -> LinearForm | None:
    weights = np.atleast_2d(np.asarray(clf.coef_, dtype=np.float64))
    bias = np.broadcast_to(np.asarray(clf.intercept_, dtype=np.float64).ravel(), (len(weights),))
    return LinearForm(weights, bias, sides) if len(sides) == len(weights) else None


def _sides(clf: Estimator) -> tuple[tuple[str | None, str | None], ...]:
    names = [str(name) for name in getattr(clf, "classes_", ())]
    if not names:
        return ((None, None),)
    return ((names[1], names[0]),) if len(names) == 2 else tuple((name, None) for name in names)


def _pairs(clf: Estimator) -> tuple[tuple[str, str], ...]:
    return tuple(combinations([str(name) for name in clf.classes_], 2))


def _several(clf: Estimator) -> LinearForm | None:
    """One output for each label, which speaks for it or against it."""
    found = [_last(uncalibrated(one)) for one in clf.estimators_]
    forms = [form for form in found if form is not None and len(form.weights) == 1]
    if len(forms) < len(found):
        return None
    return LinearForm(
        np.concatenate([form.weights for form in forms]),
        np.concatenate([form.bias for form in forms]),
        tuple((str(name), None) for name in clf.classes_),
    )


def _before(form: LinearForm, step: Any, x: Floats) -> LinearForm | None:
    """Put a step in front of a form; `x` is the row that the step takes."""
    name = type(step).__name__
    if name == "StandardScaler":
        mean = np.zeros(len(x)) if step.mean_ is None else step.mean_
        scale = np.ones(len(x)) if step.scale_ is None else step.scale_
        weights = form.weights / scale
        return replace(form, weights=weights, bias=form.bias - weights @ mean)
    if name == "PCA":
        turn = step.components_
        if step.whiten:
            turn = turn / np.sqrt(step.explained_variance_)[:, None]
        weights = form.weights @ turn
        return replace(form, weights=weights, bias=form.bias - weights @ step.mean_)
    if name == "Normalizer" and step.norm == "l2":
        length = float(np.linalg.norm(x)) or 1.0
        return replace(form, weights=form.weights / length, held=("length", *form.held))
    if name == "FunctionTransformer" and step.func is np.cbrt:
        ratio = np.divide(np.cbrt(x), x, out=np.zeros_like(x), where=x != 0)
        return replace(
            form, weights=form.weights * ratio, held=("signed power", *form.held), exact=False
        )
    return None
