"""Which parameters are tried, which of them is chosen, and what a search found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.model_selection import ParameterGrid
from sklearn.multiclass import OneVsRestClassifier

from featx.errors import FitError
from featx.heads import Grid
from featx.heads.head import norm_name
from featx.selection.checks import Warn
from featx.selection.splits import Folds
from featx.typing import Estimator, JsonObject

STRENGTHS = ("C", "alpha", "gamma")
"""Positive parameters on a log scale, whose grids could always go on."""

Params = dict[str, Any]
Grids = list[dict[str, list[Any]]]


def as_grids(grid: Grid | Sequence[Grid], folds: Folds) -> Grids:
    """Normalise a grid to a list of grids, without neighbours that no fold can offer.

    Raises
    ------
    FitError
        If a parameter has no value, or there is no grid at all.
    """
    several = [grid] if isinstance(grid, Mapping) else list(grid)
    if not several:
        raise FitError("the grid is empty; give a parameter and its values")
    fewest = min(len(train) for train, _ in folds)
    found = []
    for one in several:
        values = {name: _values(name, given) for name, given in one.items()}
        for name in [n for n in values if n.endswith("__n_neighbors")]:
            values[name] = [k for k in values[name] if k <= fewest]
            if not values[name]:
                raise FitError(f"{name} has no value up to the {fewest} rows of a training fold")
        found.append(values)
    return found


def grid_size(grid: Grid | Sequence[Grid]) -> int:
    """Count the candidates of a grid; an empty one is a single candidate."""
    several = [grid] if isinstance(grid, Mapping) else list(grid)
    return sum(math.prod(len(values) for values in one.values()) for one in several)


def _values(name: str, given: object) -> list[Any]:
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray):
        raise FitError(f"the grid gives {given!r} for {name}; expected a list of values")
    if not len(given):
        raise FitError(f"the grid holds no value for {name}; give at least one")
    return list(given)


def product(grids: Grids) -> list[Params]:
    """List every combination, in scikit-learn's order."""
    return [dict(params) for params in ParameterGrid(grids)]


def same(left: object, right: object) -> bool:
    """Compare two values of a grid; estimators by what they are set to."""
    if isinstance(left, BaseEstimator) or isinstance(right, BaseEstimator):
        return repr(left) == repr(right)
    return bool(left == right)


def around(params: Sequence[Params], best: int) -> list[Params]:
    """Make the candidates halfway (on a log scale) to the best one's neighbours.

    Where the best stands at the edge of what was tried, one further step is tried beyond it.
    """
    chosen, found = params[best], []
    for name in _strengths(chosen):
        values = _tried(params, chosen, name)
        if len(values) < 2:
            continue
        at = values.index(float(chosen[name]))
        below = values[at - 1] if at else values[0] ** 2 / values[1]
        above = values[at + 1] if at + 1 < len(values) else values[-1] ** 2 / values[-2]
        halves = [math.sqrt(below * values[at])] if at else [below]
        halves += [math.sqrt(above * values[at])] if at + 1 < len(values) else [above]
        found += [{**chosen, name: float(f"{value:.3g}")} for value in halves]
    return [p for p in found if not any(_equal(p, q) for q in params)]


def _equal(left: Params, right: Params) -> bool:
    return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)


def _strengths(params: Params) -> list[str]:
    return [k for k, v in params.items() if k.split("__")[-1] in STRENGTHS and _number(v)]


def _number(value: Any) -> bool:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return bool(number and value > 0)


def _tried(params: Sequence[Params], chosen: Params, name: str) -> list[float]:
    """List the values of ``name`` among candidates that agree with the chosen one elsewhere."""
    rest = {k: v for k, v in chosen.items() if k != name}
    alike = [p for p in params if _equal({k: v for k, v in p.items() if k != name}, rest)]
    return sorted({float(p[name]) for p in alike if _number(p.get(name))})


def at_edge(params: Sequence[Params], means: NDArray[np.float64], best: int) -> list[str]:
    """Name the strengths of the best candidate at an end of what was tried.

    An end whose neighbour scores as well is not an edge: the score has levelled off.
    """
    chosen, found = params[best], []
    for name in _strengths(chosen):
        values = _tried(params, chosen, name)
        value = float(chosen[name])
        if len(values) < 2 or value not in (values[0], values[-1]):
            continue
        beside = values[1] if value == values[0] else values[-2]
        neighbour = next(i for i, p in enumerate(params) if _equal(p, {**chosen, name: beside}))
        if means[neighbour] < means[best] - 1e-9:
            found.append(name)
    return found


def simplest_within(
    params: Sequence[Params], grids: Grids, scores: NDArray[np.float64], best: int
) -> int:
    """Choose the simplest candidate within one standard error of the best (Breiman et al. 1984).

    Grids run from simple to flexible, so the lowest sum of positions is the simplest; candidates
    with another preparation than the best one are not compared.
    """
    error = scores[best].std(ddof=1) / math.sqrt(scores.shape[1]) if scores.shape[1] > 1 else 0.0
    enough = scores.mean(axis=1) >= scores[best].mean() - error
    before = {k: v for k, v in params[best].items() if not k.startswith("clf__")}
    ranked = [
        (sum(_position(grids, params, k, p[k]) for k in p if k.startswith("clf__")), i)
        for i, p in enumerate(params)
        if enough[i] and _equal({k: v for k, v in p.items() if not k.startswith("clf__")}, before)
    ]
    return min(ranked)[1]


def _position(grids: Grids, params: Sequence[Params], name: str, value: object) -> float:
    listed = next(g[name] for g in grids if name in g)
    for at, other in enumerate(listed):
        if same(other, value):
            return float(at)
    # A refined value lies between (or beyond) listed ones, whichever way the grid runs.
    falls = listed[0] > listed[-1]
    passed = [(other > value) if falls else (other < value) for other in listed]
    return sum(map(bool, passed)) - 0.5


_MULTICLASS = {
    "SVC": "one-vs-one",
    "OneVsRestClassifier": "one-vs-rest",
    "LinearSVC": "one-vs-rest",
}


@dataclass(frozen=True)
class SearchResult:
    """The result of a search: candidates, choice, and the head fitted with it.

    Parameters
    ----------
    head
        Name of the head.
    best_params
        Chosen parameters of the pipeline.
    best_score
        Mean score of the chosen candidate over the folds.
    table
        For each candidate ``{"params", "scores", "mean", "std"}``, JSON-ready.
    scoring
        Name of the score.
    folds
        How many there were.
    at_edge
        Parameters chosen at an end of their grid, where a better value may lie beyond.
    warnings
        List of ``{"code", "message"}``.
    estimator
        Fitted on all given rows; plain scikit-learn.
    calibrated
        Whether its probabilities come from a calibration.
    scale
        How decisions became probabilities: ``own``, ``temperature`` or ``sigmoid``.
    options
        Each head that competed: ``{"head", "features", "params", "score", "std"}``; empty where
        none did.
    place
        The number of the features that won, where several competed.
    """

    head: str
    best_params: JsonObject
    best_score: float
    table: list[JsonObject] = field(repr=False)
    scoring: str
    folds: int
    at_edge: list[str]
    warnings: list[Warn]
    estimator: Estimator = field(repr=False)
    calibrated: bool = False
    scale: str = "own"
    options: list[dict[str, Any]] = field(default_factory=list, repr=False)
    place: int = 0

    @property
    def chosen(self) -> JsonObject:
        """The choice as JSON: head, parameters and cross-validated score."""
        return {
            "head": self.head,
            "params": describe(self.best_params),
            "scoring": self.scoring,
            "cv_score": self.best_score,
            "folds": self.folds,
            "calibrated": self.calibrated,
            "scale": self.scale,
            **({"multiclass": self.multiclass} if self.multiclass else {}),
        }

    @property
    def multiclass(self) -> str:
        """``one-vs-one`` or ``one-vs-rest``, of a support vector machine of several classes."""
        inner = getattr(self.estimator, "estimator", self.estimator)
        clf = inner.steps[-1][1] if hasattr(inner, "steps") else inner
        if getattr(clf, "multilabel_", False) or len(getattr(clf, "classes_", ())) < 3:
            return ""
        return _MULTICLASS.get(type(clf).__name__, "")


def describe(params: Mapping[str, object]) -> JsonObject:
    """Make parameters JSON-ready: numbers and text stay, estimators become their name or text.

    Examples
    --------
    >>> from sklearn.svm import SVC
    >>> describe({"clf": OneVsRestClassifier(SVC()), "clf__estimator__C": 1.0})
    {'clf': 'one-vs-rest', 'clf__C': 1.0}
    """
    if isinstance(params.get("clf"), OneVsRestClassifier):
        params = {**plain_names(params), "clf": "one-vs-rest"}
    return {k: _plain(v) for k, v in params.items()}


def plain_names(params: Mapping[str, object]) -> JsonObject:
    """Name parameters as the head itself does, without the classifier a label around it.

    Examples
    --------
    >>> plain_names({"clf__estimator__C": 1.0, "scale": None})
    {'clf__C': 1.0, 'scale': None}
    """
    return {k.replace("clf__estimator__", "clf__", 1): v for k, v in params.items()}


def _plain(value: object) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return norm_name(value) or " ".join(str(value).split())


def scored(params: Mapping[str, object], scores: NDArray[np.float64]) -> JsonObject:
    """Make a candidate's row of the table from its score on each fold."""
    return {
        "params": describe(params),
        "scores": [float(s) for s in scores],
        "mean": float(scores.mean()),
        "std": float(scores.std()),
    }
