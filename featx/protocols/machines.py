"""Linear support vector machines on frozen features: VISSL and Razavian."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_score
from sklearn.svm import LinearSVC

from featx.errors import FitError
from featx.evaluation import evaluate
from featx.evaluation import metrics as m
from featx.protocols.rules import (
    N_BOOT,
    Array,
    Floats,
    Predictions,
    Protocol,
    ProtocolRows,
    check,
    l2,
    mean_precision,
    precision_figure,
    signed_power,
)
from featx.selection.splits import Split


def _vissl(protocol: Protocol, rows: ProtocolRows) -> dict[str, Any]:
    """Choose a cost for each class by three folds of the training rows."""
    X, truth = l2(rows.X), rows.indicator
    train, test = rows.split.train, rows.split.test
    if rows.split.validation is not None:
        train = np.sort(np.r_[train, rows.split.validation])
    scores, chosen = np.empty((len(test), truth.shape[1])), []
    for k in range(truth.shape[1]):
        positive = truth[train, k]
        folds = StratifiedKFold(3, shuffle=True, random_state=rows.seed)
        if min(positive.sum(), (~positive).sum()) < 3:
            raise FitError(f"class {k} has fewer than 3 training rows; vissl-svm needs 3 folds")
        means = [
            cross_val_score(
                vissl_svc(cost, protocol), X[train], positive, cv=folds,
                scoring="average_precision",
            ).mean()
            for cost in protocol.values
        ]  # fmt: skip
        chosen.append(protocol.values[int(np.argmax(means))])
        fitted = vissl_svc(chosen[-1], protocol).fit(X[train], positive)
        scores[:, k] = fitted.decision_function(X[test])
    each = [
        precision_figure(m.average_precision, truth[test][:, [k]], scores[:, [k]], rows.seed)
        for k in range(truth.shape[1])
    ]
    return {
        "called": _called(scores, rows),
        "metric": "mean_average_precision",
        "figure": precision_figure(m.average_precision, truth[test], scores, rows.seed),
        "chosen": {"C": chosen},
        "tried": [],
        "per_class": each,
        "n_train": len(train),
        "n_validation": 0,
    }


def _called(scores: Floats, rows: ProtocolRows) -> Predictions:
    """Call the class with the highest score, or each label whose machine says yes."""
    if rows.y.ndim == 2:
        return Predictions((scores > 0).astype(int), scores=scores)
    ranked = scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores
    return Predictions(np.unique(rows.y)[scores.argmax(axis=1)], scores=ranked)


def vissl_svc(cost: float, protocol: Protocol) -> LinearSVC:
    """Make VISSL's machine: squared hinge, positives weigh 2."""
    return LinearSVC(
        C=cost,
        loss="squared_hinge",
        dual=True,
        class_weight={True: 2, False: 1},
        max_iter=protocol.max_iter,
        tol=1e-4,
        random_state=0,
    )


def _razavian(protocol: Protocol, rows: ProtocolRows) -> dict[str, Any]:
    """One machine a class on vectors of length one; every view is a training row."""
    views = rows.X if rows.X.ndim == 3 else rows.X[:, None]
    Z = l2(signed_power(views)) if views.shape[1] > 1 else l2(views)
    truth, train, test = rows.indicator, rows.split.train, rows.split.test
    if rows.split.validation is not None:
        train = np.sort(np.r_[train, rows.split.validation])
    n_views, n_classes = Z.shape[1], truth.shape[1]
    folds = list(GroupKFold(4, shuffle=True, random_state=rows.seed).split(train, groups=train))
    tried = []
    for cost in protocol.values:
        held = np.empty((len(train), n_classes))
        for fit_at, at in folds:
            held[at] = _viewed(cost, Z, truth, train[fit_at], train[at], protocol)
        tried.append([cost, mean_precision(None, truth[train], held)])
    cost = max(tried, key=lambda pair: pair[1])[0]
    scores = _viewed(cost, Z, truth, train, test, protocol)
    called = _called(scores, rows)
    found = {"chosen": {"C": cost, "views": n_views}, "tried": tried, "called": called}
    sizes = {"n_train": len(train), "n_validation": 0}
    if rows.y.ndim == 2:
        figure = precision_figure(m.average_precision, truth[test], scores, rows.seed)
        return {"metric": "mean_average_precision", "figure": figure, **found, **sizes}
    measured = evaluate(rows.y[test], called.predicted, seed=rows.seed, n_boot=N_BOOT)
    return {"metric": "accuracy", "figure": measured["accuracy"], **found, **sizes}


def _viewed(
    cost: float, Z: Array, truth: Array, train: Array, other: Array, protocol: Protocol
) -> Floats:
    """Fit on every view of the training rows; average the scores of each other row's views."""
    n_views, d = Z.shape[1:]
    X, scores = Z[train].reshape(-1, d), np.empty((len(other), truth.shape[1]))
    for k in range(truth.shape[1]):
        target = np.repeat(truth[train, k], n_views)
        svc = LinearSVC(C=cost, max_iter=protocol.max_iter, random_state=0).fit(X, target)
        by_view = svc.decision_function(Z[other].reshape(-1, d)).reshape(-1, n_views)
        scores[:, k] = by_view.mean(axis=1)
    return scores


VISSL = Protocol(
    "vissl-svm",
    "length one; squared hinge; C of .01, .1 and 0.5^4..0.5^19 by 3 folds for each class; "
    "positives weigh 2; average precision",
    "Goyal et al. 2019, arXiv 1905.01235",
    _vissl,
    (0.01, 0.1, *(0.5**k for k in range(4, 20))),
    max_iter=2000,
)


RAZAVIAN = Protocol(
    "razavian",
    "penultimate features of length one, linear machine one against the rest; with views (16 "
    "in the paper): signed power, every view a row, scores averaged",
    "Razavian et al. 2014, arXiv 1403.6382",
    _razavian,
    tuple(10.0**e for e in range(-2, 3)),
    max_iter=2000,
)


LOW_SHOT_K = (1, 2, 4, 8, 16, 32, 64, 96)
LOW_SHOT_SAMPLES = 5


def low_shot(
    X: ArrayLike,
    y: ArrayLike,
    split: Split | ArrayLike,
    *,
    ks: tuple[int, ...] = LOW_SHOT_K,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Measure ``vissl-svm`` with k positives a class, five draws for each k.

    VISSL reports the cost that does best on the test rows; here the cost is the one that does best
    on the training rows that were not drawn, so the figure is not the best of many.

    Returns
    -------
    rows : for each k ``{"k", "mean", "min", "max", "std"}`` of the mean average precision
    """
    protocol = VISSL
    rows = check(protocol, np.asarray(X, np.float32), np.asarray(y), split, None, seed)
    Z, truth, train = l2(rows.X), rows.indicator, rows.split.train
    found = []
    for k in [k for k in ks if k < truth[train].sum(axis=0).min()]:
        draws = []
        for sample in range(LOW_SHOT_SAMPLES):
            rng = np.random.default_rng([seed, k, sample])
            draws.append(_low_shot_draw(protocol, Z, truth, rows, draw_k(truth, train, k, rng)))
        found.append(
            {"k": k, "mean": float(np.mean(draws)), "min": min(draws), "max": max(draws),
             "std": float(np.std(draws))}
        )  # fmt: skip
    return found


def draw_k(truth: Array, train: Array, k: int, rng: np.random.Generator) -> Array:
    """Draw k positive training rows of each class, without a row twice."""
    drawn = [
        rng.choice(train[truth[train, c]], k, replace=False) for c in range(truth.shape[1])
    ]  # fmt: skip
    return np.unique(np.concatenate(drawn))


def _low_shot_draw(
    protocol: Protocol, Z: Array, truth: Array, rows: ProtocolRows, drawn: Array
) -> float:
    rest, test = np.setdiff1d(rows.split.train, drawn), rows.split.test
    best, figure = -1.0, 0.0
    for cost in protocol.values:
        fits = [
            vissl_svc(cost, protocol).fit(Z[drawn], truth[drawn, c]) for c in range(truth.shape[1])
        ]
        on_rest, on_test = (
            mean_precision(
                None, truth[at], np.stack([f.decision_function(Z[at]) for f in fits], axis=1)
            )
            for at in (rest, test)
        )
        if on_rest > best:
            best, figure = on_rest, on_test
    return figure
