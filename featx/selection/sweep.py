"""Score a grid of parameters over folds, doing once what candidates share.

Within a fold the steps before ``clf`` are fitted once for all candidates that agree on them, and a
support vector machine sees one kernel matrix for every C. What is scored is what scikit-learn's
``GridSearchCV`` would score, to rounding.
"""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgWarning
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC, SVR
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from featx.heads import LARGE_ROWS
from featx.selection.splits import Folds

Params = Mapping[str, Any]
Scorer = Callable[..., float]
Array = NDArray[Any]

KERNEL_CACHE_MB = 1000

ANSWERED: tuple[tuple[str, type[Warning]], ...] = (
    # It is read from the fitted estimators, and said once for all folds.
    ("", ConvergenceWarning),
    ("", LinAlgWarning),
    # `few_samples` and `label_notes` say it of all rows.
    ("Only one sample available", UserWarning),
    ("Label .* is present in all training examples", UserWarning),
    # Few rows are few landmarks, too.
    ("n_components > n_samples", UserWarning),
    # Of scikit-learn's loops, where another thread has reset the filters.
    ("`sklearn.utils.parallel.delayed`", UserWarning),
)
"""How warnings of scikit-learn begin that tell the user nothing, or nothing more."""


@dataclass(frozen=True)
class Fold:
    """Training and held-out rows of one fold, as arrays."""

    X_train: Array
    y_train: Array
    X_held: Array
    y_held: Array
    weights: Array | None


@dataclass(frozen=True)
class Sweep:
    """Scores of every candidate on every fold."""

    scores: NDArray[np.float64]
    converged: NDArray[np.bool_]


def sweep(
    pipeline: Pipeline,
    candidates: Sequence[Params],
    data: tuple[Array, Array, Array | None],
    folds: Folds,
    scorer: Scorer,
    n_jobs: int | None = None,
) -> Sweep:
    """Score candidates on folds.

    Parameters
    ----------
    pipeline
        Unfitted; its last step is called ``clf``.
    candidates
        Parameters of the pipeline.
    data
        Features, labels, and sample weights or None.
    scorer
        As ``sklearn.metrics.get_scorer`` returns.
    n_jobs
        Threads; all cores when None. Threads share the features, so nothing is copied.

    Returns
    -------
    sweep : scores of shape (n_candidates, n_folds)
    """
    with in_threads(n_jobs, len(folds)):
        done = joblib.Parallel()(
            joblib.delayed(_score_fold)(pipeline, candidates, data, fold, scorer) for fold in folds
        )
    scores, converged = (np.stack(part, axis=1) for part in zip(*done, strict=True))
    return Sweep(scores, converged)


@contextlib.contextmanager
def in_threads(n_jobs: int | None, tasks: int) -> Iterator[None]:
    """Share the cores among ``tasks`` threads, so that linear algebra does not oversubscribe them.

    Warnings that the search answers for itself are silent inside; others come once, at the end.
    """
    cores = joblib.cpu_count()
    threads = max(1, min(n_jobs if n_jobs and n_jobs > 0 else cores, tasks))
    with (
        # Filters belong to the process, and scikit-learn resets them within its own loops: only a
        # record holds for all threads at any moment.
        warnings.catch_warnings(record=True) as caught,
        threadpool_limits(max(1, cores // threads)),
        joblib.parallel_config(backend="threading", n_jobs=threads),
    ):
        for text, category in ANSWERED:
            warnings.filterwarnings("ignore", text, category)
        yield
    _pass_on(caught)


def _pass_on(caught: list[warnings.WarningMessage]) -> None:
    others = {(str(w.message), w.category, w.filename, w.lineno): w for w in caught}
    for (text, category, file, line), one in others.items():
        if not any(issubclass(category, c) and re.match(t, text) for t, c in ANSWERED):
            warnings.warn_explicit(one.message, category, file, line)


def _score_fold(
    pipeline: Pipeline,
    candidates: Sequence[Params],
    data: tuple[Array, Array, Array | None],
    rows: tuple[Array, Array],
    scorer: Scorer,
) -> tuple[Array, Array]:
    X, y, weights = data
    train, held = rows
    scores, converged = np.empty(len(candidates)), np.ones(len(candidates), dtype=bool)
    for members in _alike(candidates):
        steps = pipeline[:-1]
        before = {k: v for k, v in candidates[members[0]].items() if not k.startswith("clf__")}
        prefix = clone(steps) if len(steps) else None
        if prefix is not None and before:
            prefix.set_params(**{k: clone(v, safe=False) for k, v in before.items()})
        Z_train = X[train] if prefix is None else prefix.fit_transform(X[train], y[train])
        Z_held = X[held] if prefix is None else prefix.transform(X[held])
        kept = None if weights is None else weights[train]
        fold = Fold(Z_train, y[train], Z_held, y[held], kept)
        clfs = [_with(pipeline["clf"], candidates[i]) for i in members]
        for i, (score, done) in zip(members, _sweep_clf(clfs, fold, scorer), strict=True):
            scores[i], converged[i] = score, done
    return scores, converged


def _alike(candidates: Sequence[Params]) -> list[list[int]]:
    """Gather the candidates that share every step before ``clf``."""
    found: dict[str, list[int]] = {}
    for i, candidate in enumerate(candidates):
        before = {k: repr(v) for k, v in candidate.items() if not k.startswith("clf__")}
        found.setdefault(json.dumps(before, sort_keys=True), []).append(i)
    return list(found.values())


def _with(clf: Any, candidate: Params) -> Any:
    own = {k.removeprefix("clf__"): v for k, v in candidate.items() if k.startswith("clf__")}
    return clone(clf).set_params(**own)


def _sweep_clf(clfs: list[Any], fold: Fold, scorer: Scorer) -> list[tuple[float, bool]]:
    first = clfs[0]
    # Subclasses may mean something else by the same parameters, so the type is compared exactly.
    if type(_machine(first)) in (SVC, SVR) and len(fold.X_train) <= LARGE_ROWS:
        if all(_machine(clf).kernel in ("linear", "rbf") for clf in clfs):
            return _sweep_kernel(clfs, fold, scorer)
    if type(first) is LogisticRegression and first.solver == "lbfgs":
        return _sweep_logistic(clfs, fold, scorer)
    return [_fit_score(clf, fold, scorer, fold.X_train, fold.X_held) for clf in clfs]


def _machine(clf: Any) -> Any:
    """Give what is fitted for each label of several, else the classifier itself."""
    return clf.estimator if type(clf) is OneVsRestClassifier else clf


def _fit_score(
    clf: Any, fold: Fold, scorer: Scorer, X_train: Array, X_held: Array
) -> tuple[float, bool]:
    if fold.weights is None:
        clf.fit(X_train, fold.y_train)
    else:
        clf.fit(X_train, fold.y_train, sample_weight=fold.weights)
    return float(scorer(clf, X_held, fold.y_held)), has_converged(clf)


def has_converged(clf: Any) -> bool:
    """Say whether a fitted estimator stopped before its last allowed iteration."""
    limit, spent = getattr(clf, "max_iter", None), getattr(clf, "n_iter_", None)
    if not limit or limit < 0 or spent is None:
        return True
    return bool(np.max(spent) < limit)


def _sweep_kernel(clfs: list[Any], fold: Fold, scorer: Scorer) -> list[tuple[float, bool]]:
    """Fit on kernel matrices that all values of C, and all labels of a row, share.

    libsvm reads them as float64.
    """
    train, held = (np.asarray(Z, dtype=np.float32) for Z in (fold.X_train, fold.X_held))
    gram, across = train @ train.T, held @ train.T
    own, other = np.diag(gram).copy(), np.einsum("ij,ij->i", held, held)
    made: dict[Any, tuple[Array, Array]] = {}
    found = []
    for clf in clfs:
        machine = _machine(clf)
        gamma = None if machine.kernel == "linear" else _gamma(machine.gamma, train)
        if gamma not in made:
            # One kernel at a time: a grid over gamma must not hold several.
            made = {gamma: (_kernel(gram, own, own, gamma), _kernel(across, other, own, gamma))}
        machine.set_params(kernel="precomputed", cache_size=KERNEL_CACHE_MB)
        found.append(_fit_score(clf, fold, scorer, *made[gamma]))
    return found


def _gamma(gamma: Any, Z: Array) -> float:
    if gamma == "scale":
        variance = float(Z.var(dtype=np.float64))
        # Below, squared distances of float32 are all zero, and so the kernel is the same for any.
        return 1.0 / (Z.shape[1] * variance) if variance > np.finfo(np.float32).tiny else 1.0
    return 1.0 / Z.shape[1] if gamma == "auto" else float(gamma)


def _kernel(products: Array, left: Array, right: Array, gamma: float | None) -> Array:
    if gamma is None:
        return products.astype(np.float64)
    # In place, as the matrix is large: squared distances first, then what the kernel makes of them.
    values = np.float32(-2) * products
    values += left[:, None]
    values += right[None, :]
    np.maximum(values, 0, out=values)
    values *= np.float32(-gamma)
    return np.exp(values, out=values).astype(np.float64)


def _sweep_logistic(clfs: list[Any], fold: Fold, scorer: Scorer) -> list[tuple[float, bool]]:
    """Follow C upwards, each fit starting where the one before ended."""
    found: dict[int, tuple[float, bool]] = {}
    last: Any = None
    for i in sorted(range(len(clfs)), key=lambda i: clfs[i].C):
        clf = clfs[i].set_params(warm_start=True)
        if last is not None:
            clf.coef_, clf.intercept_ = last.coef_.copy(), last.intercept_.copy()
        found[i] = _fit_score(clf, fold, scorer, fold.X_train, fold.X_held)
        last = clf
    return [found[i] for i in range(len(clfs))]
