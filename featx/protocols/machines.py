"""Linear support vector machines on frozen features: VISSL and Razavian."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import stdtrit  # the quantile of t
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_score
from sklearn.svm import LinearSVC

from featx.errors import FitError
from featx.evaluation import evaluate
from featx.evaluation import metrics as m
from featx.evaluation.resampling import wilson
from featx.protocols.rules import (
    Array,
    Floats,
    Predictions,
    Protocol,
    ProtocolRows,
    ap_interpolated,
    l2,
    mean_precision,
    precision_figure,
    signed_power,
)
from featx.typing import JsonObject


def _vissl(protocol: Protocol, rows: ProtocolRows) -> JsonObject:
    """Choose a cost for each class by three folds of the training rows, in their order.

    As in VISSL's vissl/utils/svm_utils/svm_trainer.py: ``cross_val_score(cv=3)``, whose folds are
    stratified and not shuffled, and scikit-learn's average precision choose; the test rows are
    measured by interpolated average precision (its evaluate.py). The protocol is that of Goyal et
    al. 2019, arXiv 1905.01235.
    """
    X, truth = l2(rows.X), rows.indicator
    train, test = rows.learnt, rows.split.test
    scores, chosen = np.empty((len(test), truth.shape[1])), []
    for k in range(truth.shape[1]):
        positive = truth[train, k]
        folds = StratifiedKFold(3)
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
        precision_figure(ap_interpolated, truth[test][:, [k]], scores[:, [k]], rows)
        for k in range(truth.shape[1])
    ]
    return {
        "called": called(scores, rows),
        "metric": "mean_average_precision",
        "figure": precision_figure(ap_interpolated, truth[test], scores, rows),
        "chosen": {"C": chosen},
        "tried": [],
        "per_class": each,
        "n_train": len(train),
        "n_validation": 0,
    }


def called(scores: Floats, rows: ProtocolRows) -> Predictions:
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


def _razavian(protocol: Protocol, rows: ProtocolRows) -> JsonObject:
    """One machine a class on vectors of length one; every view is a training row.

    Section 2.2 of Razavian et al. 2014, arXiv 1403.6382: vectors of length one and a linear machine
    one against the rest; "CNNaug" has views of each picture (16 there: the whole, five crops, two
    turns, and their mirror images), a signed power of the vectors, and the sum of the views'
    scores for a test picture.
    """
    views = rows.X if rows.X.ndim == 3 else rows.X[:, None]
    Z = l2(signed_power(views)) if views.shape[1] > 1 else l2(views)
    truth, train, test = rows.indicator, rows.learnt, rows.split.test
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
    said = called(scores, rows)
    found = {"chosen": {"C": cost, "views": n_views}, "tried": tried, "called": said}
    sizes = {"n_train": len(train), "n_validation": 0}
    if rows.y.ndim == 2:
        figure = precision_figure(m.average_precision, truth[test], scores, rows)
        return {"metric": "mean_average_precision", "figure": figure, **found, **sizes}
    measured = evaluate(rows.y[test], said.predicted, **rows.resampling)
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


AS_VISSL = {
    "resize": "crop",
    "resize_size": [256, 256],
    "input_size": [224, 224],
    "views": ["none"],
}
"""Of the pictures: VISSL's configuration of the VOC07 benchmark."""

VISSL = Protocol(
    "vissl-svm",
    "short side 256, centre crop 224; length one; squared hinge; C of .01, .1 and 0.5^4..0.5^19 by "
    "3 unshuffled folds for each class; positives weigh 2; interpolated average precision",
    "Goyal et al. 2019, arXiv 1905.01235; VISSL's svm_trainer.py and evaluate.py",
    _vissl,
    (0.01, 0.1, *(0.5**k for k in range(4, 20))),
    max_iter=2000,
    asks=AS_VISSL,
)


RAZAVIAN = Protocol(
    "razavian",
    "penultimate features of length one, linear machine one against the rest; with views (16 "
    "in the paper): signed power, every view a row, scores averaged",
    "Razavian et al. 2014, arXiv 1403.6382",
    _razavian,
    tuple(10.0**e for e in range(-2, 3)),
    max_iter=2000,
    views=True,
)


Episode = Callable[[Array], Predictions]
"""From the rows that are drawn to what is said of the test rows."""


def _k_shot(protocol: Protocol, rows: ProtocolRows) -> JsonObject:
    """Fit a logistic regression on k rows of each class, and measure it on all test rows.

    The head is that of Tian et al. 2020, arXiv 2003.11539 ("Rethinking few-shot image
    classification"), eval/meta_eval.py: vectors of length one, logistic regression with C = 1.
    There each episode has its own few classes and queries; here every episode has all classes and
    all test rows, which is what a user with k labels a class would have.
    """
    X, test = l2(rows.X), rows.split.test
    every = np.unique(rows.y)

    def episode(drawn: Array) -> Predictions:
        fit = LogisticRegression(C=1.0, max_iter=protocol.max_iter).fit(X[drawn], rows.y[drawn])
        table = np.zeros((len(test), len(every)))
        table[:, np.searchsorted(every, fit.classes_)] = fit.predict_proba(X[test])
        return Predictions(every[table.argmax(axis=1)], probabilities=table)

    def worth(said: Predictions) -> float:
        return float(np.mean(said.predicted == rows.y[test]))

    def spread(said: Predictions) -> float:
        right = (said.predicted == rows.y[test]).astype(np.float64)
        drawn = [w @ right / w.sum(axis=1) for w in rows.weights()]
        return float(np.std(np.concatenate(drawn), ddof=1))

    return {"metric": "accuracy", **_drawn(protocol, rows, 0, episode, worth, spread)}


def _vissl_low_shot(protocol: Protocol, rows: ProtocolRows) -> JsonObject:
    """Fit VISSL's machines on k positives of each class, five draws for each k.

    Goyal et al. 2019, arXiv 1905.01235, section 5.1. VISSL (svm_low_shot_trainer.py) reports the
    cost that does best on the test rows; here the cost is the one that does best on the training
    rows that were not drawn, so the figure is not the best of many.
    """
    Z, truth, test = l2(rows.X), rows.indicator, rows.split.test

    def scores(cost: float, drawn: Array, at: Array) -> Floats:
        fits = [
            vissl_svc(cost, VISSL).fit(Z[drawn], truth[drawn, c]) for c in range(truth.shape[1])
        ]
        return np.stack([fit.decision_function(Z[at]) for fit in fits], axis=1)

    def episode(drawn: Array) -> Predictions:
        rest = np.setdiff1d(rows.learnt, drawn)
        both = np.r_[rest, test]
        tried = [scores(cost, drawn, both) for cost in protocol.costs]
        best = max(tried, key=lambda one: mean_precision(None, truth[rest], one[: len(rest)]))
        return called(best[len(rest) :], rows)

    def table(said: Predictions) -> Floats:
        assert said.scores is not None
        two = said.scores.ndim == 1
        return np.stack([-said.scores, said.scores], axis=1) if two else said.scores

    def worth(said: Predictions) -> float:
        return mean_precision(ap_interpolated, truth[test], table(said))

    def spread(said: Predictions) -> float:
        there = np.flatnonzero(truth[test].any(axis=0))
        each = [ap_interpolated(truth[test, c], table(said)[:, c]) for c in there]
        means = [m.mean_there(np.stack([ap(w) for ap in each], axis=1)) for w in rows.weights()]
        return float(np.nanstd(np.concatenate(means), ddof=1))

    found = _drawn(protocol, rows, 1, episode, worth, spread)
    return {"metric": "mean_average_precision", **found}


def _drawn(
    protocol: Protocol,
    rows: ProtocolRows,
    spare: int,
    episode: Episode,
    worth: Callable[[Predictions], float],
    spread: Callable[[Predictions], float],
) -> JsonObject:
    """Run all episodes of each k, and measure what they are worth on average.

    Parameters
    ----------
    spare
        Training rows of each class that may not be drawn, at least.
    worth, spread
        The figure of an episode, and its standard error for other test rows.
    """
    truth, train = rows.indicator, rows.learnt
    shots, left = _usable(protocol, rows, spare)
    episodes = rows.episodes or protocol.episodes
    by_k: dict[str, dict[str, float]] = {}

    def run(k: int, number: int) -> Predictions:
        rng = np.random.default_rng([rows.seed, k, number])
        return episode(draw_k(truth, train, k, rng))

    for k in shots:
        values = np.array([worth(run(k, number)) for number in range(episodes)])
        # Again, so that not all tables of scores are kept.
        middle = run(k, int(np.argsort(values, kind="stable")[(episodes - 1) // 2]))
        by_k[str(k)] = _figure(values, spread(middle), len(rows.split.test))
    return {
        "called": middle,
        "figure": {end: by_k[str(shots[-1])][end] for end in ("value", "low", "high")},
        "chosen": {"shots": list(shots), "episodes": episodes},
        "tried": [],
        "by_k": by_k,
        "left_out": left,
        "n_train": int(shots[-1] * truth.shape[1]),
        "n_validation": 0,
    }


def _figure(values: Floats, error: float, n_test: int) -> dict[str, float]:
    """Give the mean over episodes with its interval, and how far single episodes lie apart.

    The interval allows for other episodes, by their spread, and for other test rows.
    """
    n, mean = len(values), float(values.mean())
    variance = float(values.var(ddof=1)) / n + error**2
    z = float(stdtrit(n - 1, 0.975))
    ends = {"low": mean, "high": mean}
    if variance > 0 and 0 < mean < 1:
        ends = wilson(mean, mean * (1 - mean) / variance, z)
    elif mean in (0, 1):
        ends = wilson(mean, n_test)
    lowest, highest = float(values.min()), float(values.max())
    return {"value": mean, **ends, "lowest": lowest, "highest": highest, "std": float(values.std())}


def _usable(protocol: Protocol, rows: ProtocolRows, spare: int) -> tuple[list[int], list[int]]:
    """Give the numbers of rows that every class has, and those that one lacks."""
    counts = rows.indicator[rows.learnt].sum(axis=0)
    counts = np.where(counts > 0, counts, np.iinfo(counts.dtype).max)  # only test rows have it
    least = int(counts.min()) - spare
    asked = sorted(set(rows.shots or (int(k) for k in protocol.values)))
    if asked[0] > least:
        name = f"class {int(counts.argmin())}"
        if rows.y.ndim == 1:
            name = f"class {str(np.unique(rows.y)[counts.argmin()])!r}"
        raise FitError(
            f"{protocol.name}: {name} has {int(counts.min())} training rows; {asked[0]} of each "
            f"class take {asked[0] + spare}"
        )
    return [k for k in asked if k <= least], [k for k in asked if k > least]


def draw_k(truth: Array, train: Array, k: int, rng: np.random.Generator) -> Array:
    """Draw k positive training rows of each class that has any, without a row twice."""
    drawn = [
        rng.choice(train[truth[train, c]], k, replace=False)
        for c in range(truth.shape[1])
        if truth[train, c].any()
    ]
    return np.unique(np.concatenate(drawn))


VISSL_LOW_SHOT = Protocol(
    "vissl-low-shot",
    "short side 256, centre crop 224; vissl-svm on 1 to 96 positives of each class, 5 draws each; "
    "the cost by the training rows that were not drawn",
    "Goyal et al. 2019, arXiv 1905.01235, section 5.1",
    _vissl_low_shot,
    (1, 2, 4, 8, 16, 32, 64, 96),
    max_iter=2000,
    asks=AS_VISSL,
    options=("shots", "episodes"),
    episodes=5,
    costs=VISSL.values,
)


K_SHOT = Protocol(
    "k-shot",
    "length one; logistic regression, C = 1, on 1 to 16 rows of each class, 50 draws each; all "
    "classes and all test rows",
    "Tian et al. 2020, arXiv 2003.11539",
    _k_shot,
    (1, 2, 4, 8, 16),
    options=("shots", "episodes"),
    episodes=50,
)
