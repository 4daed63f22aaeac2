"""Would twice the labels help? The head fitted on ever more of its training rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV

from featx.errors import FitError
from featx.evaluation.resampling import draw_weights
from featx.selection.splits import strata_of
from featx.selection.sweep import answered
from featx.typing import Estimator, JsonObject, RowValues

FRACTIONS = (1 / 8, 1 / 4, 1 / 2, 1.0)
_N_BOOT = 1000
_SMALL = {"accuracy": 0.005, "mae": 0.01}
"""Gains below these are called small: half a point, or a hundredth of the error."""

_NO_ERROR = 1e-4  # stands for an error of zero, which has no logarithm

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RowSet:
    """Rows on one side of a split.

    Parameters
    ----------
    X
        Shape (n_samples, n_features).
    y
        Shape (n_samples,), or (n_samples, n_labels) where rows have several.
    groups
        Group of each row, or None.
    weights
        Weight of each row in the fitting of a pipeline whose last step is ``clf``, or None.
    """

    X: NDArray[Any]
    y: RowValues
    groups: RowValues | None = None
    weights: NDArray[np.float64] | None = None


def learning_curve(
    estimator: Estimator,
    train: RowSet,
    test: RowSet,
    *,
    task: str = "classification",
    fractions: tuple[float, ...] = FRACTIONS,
    repeats: int = 4,
    seed: int = 0,
    step: Callable[[int], Any] | None = None,
) -> JsonObject:
    """Fit a head on parts of its training rows and measure each on the same test rows.

    The parameters are those chosen on all training rows. A calibrated classifier is fitted without
    its calibration. Whole groups are drawn where there are groups.

    Parameters
    ----------
    estimator
        Cloned, never fitted itself.
    fractions
        Shares of the training rows, the last one 1.
    repeats
        Subsets a share at most, without a common row, whose scores are averaged.
    step
        Told of each fit, of `fits_of_curve` in all.

    Returns
    -------
    curve : dict
        ``metric`` (``accuracy`` or ``mae``); ``points``: ``{"n", "value", "low", "high"}`` each;
        ``gain``: what the last doubling brought, positive for better; ``doubled``: what a power
        law gives for twice the labels; ``verdict`` (``yes``, ``little``, ``unclear``) and
        ``answer``, a sentence. Intervals (95 %) allow for other test rows, by the bootstrap, and
        for other training rows, by the spread over subsets without a common row. They do not allow
        for a curve that is not a power law.

    Raises
    ------
    FitError
        If there are too few rows for any part, or no test row.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import RidgeClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> rows = np.random.default_rng(0).permutation(150)
    >>> train, test = (RowSet(X[r], y[r]) for r in (rows[:100], rows[100:]))
    >>> found = learning_curve(RidgeClassifier(), train, test)
    >>> [point["n"] for point in found["points"]]
    [12, 25, 50, 100]
    """
    if not len(test.y):
        raise FitError("a learning curve needs test rows, and there is none")
    plain = _uncalibrated(estimator)
    rng = np.random.default_rng(seed)
    sizes: list[int] = []
    errors: list[Floats] = []
    for share in fractions:
        done = []
        for at in _subsets(train, share, task, rng, repeats):
            one = _errors(plain, train, test, at, task)
            done += [] if one is None else [one]
            if step is not None:
                step(1)
        if done:
            sizes.append(round(float(np.mean([n for n, _ in done]))))
            errors.append(np.array([row for _, row in done]))
    if len(sizes) < 2:
        raise FitError(f"{len(train.y)} training rows are too few for a learning curve")
    return _summary(np.array(sizes), errors, test, task, seed)


def fits_of_curve(fractions: tuple[float, ...] = FRACTIONS, repeats: int = 4) -> int:
    """Count the fits of a learning curve.

    Examples
    --------
    >>> fits_of_curve((0.5, 1.0), repeats=3)
    3
    """
    return sum(_drawn(share, repeats) for share in fractions)


def _drawn(share: float, repeats: int) -> int:
    return 1 if share >= 1 else max(1, min(repeats, int(1 / share)))


def _uncalibrated(estimator: Estimator) -> Any:
    """Give the head without its calibration, which would fit it several times."""
    if isinstance(estimator, CalibratedClassifierCV):
        return estimator.estimator
    several = estimator.get_params().get("clf__estimator")
    if isinstance(several, CalibratedClassifierCV):
        return clone(estimator).set_params(clf__estimator=several.estimator)
    return estimator


def _subsets(
    train: RowSet, share: float, task: str, rng: np.random.Generator, repeats: int
) -> list[NDArray[np.intp]]:
    """Deal training rows into subsets without a common row."""
    n, many = len(train.y), _drawn(share, repeats)
    if share >= 1:
        return [np.arange(n)]
    if train.groups is not None:
        codes = np.unique(train.groups, return_inverse=True)[1]
        units = rng.permutation(int(codes.max()) + 1)
        each = max(1, round(share * len(units)))
        dealt = [units[k * each : (k + 1) * each] for k in range(many)]
        return [np.flatnonzero(np.isin(codes, some)) for some in dealt if len(some)]
    order = rng.permutation(n)
    if task != "regression":
        order = order[
            _in_shares(np.unique(strata_of(train.y, task), return_inverse=True)[1][order])
        ]
    each = max(2, int(share * n))
    return [some for k in range(many) if len(some := order[k * each : (k + 1) * each]) >= 2]


def _in_shares(codes: NDArray[np.intp]) -> NDArray[np.intp]:
    """Order rows so that every stretch of them has about the shares of the classes."""
    # The k-th of the n_c rows of a class stands at k / n_c.
    rank = np.empty(len(codes))
    for code in np.unique(codes):
        at = np.flatnonzero(codes == code)
        rank[at] = (np.arange(len(at)) + 0.5) / len(at)
    return np.argsort(rank, kind="stable")


def _errors(
    estimator: Estimator, train: RowSet, test: RowSet, at: NDArray[np.intp], task: str
) -> tuple[int, Floats] | None:
    """Fit on some rows and give each test row's error; None where they hold one class only."""
    if task == "multilabel" and not np.ptp(train.y[at], axis=0).all():
        return None
    if task == "classification" and len(np.unique(train.y[at])) < 2:
        return None
    weighted = {} if train.weights is None else {"clf__sample_weight": train.weights[at]}
    try:
        with answered():  # the search has said so already, of the fit that counts
            fitted = _as_many_steps(clone(estimator), len(train.y) / len(at))
            if not _as_many_folds(fitted, train.y[at], task):
                return None
            fitted.fit(train.X[at], train.y[at], **weighted)
            predicted = fitted.predict(test.X)
    except ValueError:
        return None  # such as fewer rows than neighbours
    if task == "regression":
        return len(at), np.abs(np.asarray(predicted, dtype=np.float64) - test.y)
    wrong = np.asarray(predicted) != test.y
    return len(at), (wrong.any(axis=1) if task == "multilabel" else wrong).astype(np.float64)


def _as_many_steps(estimator: Estimator, more: float) -> Any:
    """Let what makes a fixed number of passes, without a tolerance, make more over fewer rows."""
    params = estimator.get_params()
    for name, passes in params.items():
        if name.endswith("max_iter") and params.get(f"{name[:-8]}tol", 0) is None:
            estimator.set_params(**{name: round(more * passes)})
    return estimator


def _as_many_folds(estimator: Estimator, y: RowValues, task: str) -> bool:
    """Let what is fitted on folds of its own, as a stack is, have no more than the rarest class.

    Returns
    -------
    possible : False where a class has one row, which no fold can train on and hold out
    """
    if task != "classification":
        return True
    smallest = int(np.unique(y, return_counts=True)[1].min())
    folds = {
        name: value
        for name, value in estimator.get_params().items()
        if name.rpartition("__")[2] == "cv" and isinstance(value, int) and value > smallest
    }
    if folds and smallest > 1:
        estimator.set_params(**dict.fromkeys(folds, smallest))
    return not folds or smallest > 1


def _summary(
    sizes: NDArray[np.int_], several: list[Floats], test: RowSet, task: str, seed: int
) -> JsonObject:
    metric = "mae" if task == "regression" else "accuracy"
    errors = np.array([one.mean(axis=0) for one in several])
    drawn = np.concatenate(
        [
            (w @ errors.T) / w.sum(axis=1, keepdims=True)
            for w in draw_weights(len(test.y), _N_BOOT, seed, test.groups)
        ]
    )
    drawn = np.maximum(drawn + _of_training(sizes, several, seed), 0)
    means = errors.mean(axis=1)
    last, samples = _step(means), _step(drawn)
    found: JsonObject = {
        "metric": metric,
        "points": [
            {"n": int(n), **_figure(_shown(means[k], metric), _shown(drawn[:, k], metric))}
            for k, n in enumerate(sizes)
        ],
        "gain": _figure(last, samples),
        "ratio": float(sizes[-1] / sizes[-2]),
        "doubled": None,
    }
    if len(sizes) >= 3:
        ahead, spread = _ahead(sizes, means), _ahead(sizes, drawn)
        found["doubled"] = {
            "n": int(2 * sizes[-1]),
            "gain": _figure(ahead, spread),
            **_figure(_shown(means[-1] - ahead, metric), _shown(drawn[:, -1] - spread, metric)),
        }
    verdict, answer = _answer(found, means[-1])
    return found | {"verdict": verdict, "answer": answer}


def _of_training(sizes: NDArray[np.int_], several: list[Floats], seed: int) -> Floats:
    """Draw how far the mean error of each size lies from that of other training rows.

    Fits on subsets without a common row are independent, and their variance is taken to fall as
    one over the number of rows. Few fits tell the variance poorly, so the draws are Student's t.

    Returns
    -------
    shifts : shape (n_boot, n_sizes)
    """
    means = [one.mean(axis=1) for one in several]
    freedom = sum(len(one) - 1 for one in means)
    if not freedom:
        return np.zeros((_N_BOOT, len(sizes)))
    each = [n * ((one - one.mean()) ** 2).sum() for n, one in zip(sizes, means, strict=True)]
    errors = np.sqrt(sum(each) / freedom / sizes / [len(one) for one in means])
    rng = np.random.default_rng([seed, 1])
    wider = np.sqrt(freedom / rng.chisquare(freedom, size=(_N_BOOT, 1)))
    return np.asarray(rng.normal(size=(_N_BOOT, len(sizes))) * errors * wider)


def _shown(error: Any, metric: str) -> Any:
    return 1 - error if metric == "accuracy" else error


def _step(errors: Floats) -> Any:
    return errors[..., -2] - errors[..., -1]


def _ahead(sizes: NDArray[np.int_], errors: Floats) -> Any:
    """How much the error would fall with twice the rows, if it is a power of their number.

    A line through the logarithms of error and number, of the last three sizes only: curves flatten,
    and earlier sizes would promise too much.
    """
    logs = np.log(sizes[-3:]) - np.log(sizes[-3:]).mean()
    slopes = np.log(np.maximum(errors[..., -3:], _NO_ERROR)) @ logs / (logs @ logs)
    return errors[..., -1] * (1 - 2.0**slopes)


def _figure(value: Any, samples: Any) -> dict[str, float]:
    low, high = np.percentile(samples, [2.5, 97.5])
    return {
        "value": float(value),
        "low": float(min(low, value)),
        "high": float(max(high, value)),
    }


def _answer(found: JsonObject, error: float) -> tuple[str, str]:
    metric, doubled, points = found["metric"], found["doubled"], found["points"]
    n, was, gain = points[-1]["n"], points[-2]["n"], found["gain"]
    grew = (
        f"Going from {was:,} to {n:,} labels changed the {_NAMES[metric]} by "
        f"{_signed(gain, metric)}."
    )
    if doubled is None:
        return "unclear", f"Too few sizes for a forecast. {grew}"
    ahead = doubled["gain"]
    small = _SMALL[metric] * (error if metric == "mae" else 1.0)
    forecast = (
        f"if the trend of the curve goes on, {doubled['n']:,} labels would change it by "
        f"{_signed(ahead, metric)}: an extrapolation, not a measurement."
    )
    goes_on = gain["value"] >= ahead["value"] / 2
    if ahead["low"] > 0 and goes_on and ahead["value"] >= small:
        return "yes", f"Probably. {grew} And {forecast}"
    if ahead["high"] < 2 * small:
        return "little", f"Hardly. {grew} And {forecast}"
    return "unclear", (
        f"It cannot be told from {len(points)} sizes and these test rows. {grew} And {forecast}"
    )


_NAMES = {"accuracy": "accuracy", "mae": "mean absolute error"}


def _signed(gain: dict[str, float], metric: str) -> str:
    """A gain with its interval: points of accuracy, or units of the error (less is better)."""
    if metric == "accuracy":
        value, low, high = (100 * gain[k] for k in ("value", "low", "high"))
        text = f"{value:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
    else:
        value, low, high = (-gain[k] for k in ("value", "high", "low"))
        text = f"{value:+.3g} (95 % interval {low:+.3g} to {high:+.3g})"
    return text.replace("-", "\N{MINUS SIGN}").replace(" %", "\N{NARROW NO-BREAK SPACE}%")
