"""Logistic regressions on frozen features: Kornblith, CLIP, DINOv2."""

from __future__ import annotations

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from featx.errors import FitError
from featx.evaluation import evaluate
from featx.protocols.rules import (
    Array,
    Floats,
    Predictions,
    Protocol,
    ProtocolRows,
    ap11,
    logspace,
    mean_precision,
    precision_figure,
)
from featx.typing import JsonObject

METRICS = {"accuracy": "accuracy", "per-class": "balanced_accuracy", "11-point": "map11"}
"""Of Kornblith et al. 2019, by the names of ``--metric``."""


def _kornblith(protocol: Protocol, rows: ProtocolRows) -> JsonObject:
    """Choose and measure by accuracy, by its mean over classes, or by 11-point precision.

    Table 1 of Kornblith et al. 2019, arXiv 1805.08974: mean per class for Aircraft, Pets,
    Caltech-101 and Flowers, 11-point mAP for VOC 2007, top-1 for the others. The range of the
    penalty is that of section 3.1 there; the size of the pictures is that of SimCLR (Chen et al.
    2020, arXiv 2002.05709, appendix B.8), which BYOL takes over.
    """
    plain = "11-point" if rows.y.ndim == 2 else "accuracy"
    if (rows.metric or plain) not in METRICS:
        raise FitError(f"--metric is {rows.metric!r}; expected one of {', '.join(METRICS)}")
    if rows.y.ndim == 2 and rows.metric not in (None, "11-point"):
        raise FitError(f"--metric {rows.metric} is for one label a row; rows here have several")
    metric = METRICS[rows.metric or plain]
    return _swept(protocol, rows, metric, [1 / value for value in protocol.values])


def _dinov2_logreg(protocol: Protocol, rows: ProtocolRows) -> JsonObject:
    """Choose on a random tenth of the training rows, and refit on all.

    As in dinov2/eval/log_regression.py: ``randperm(n)[: n // 10]``, not stratified; 45 values of
    C; the final fit on both parts. Oquab et al. 2023, arXiv 2304.07193.
    """
    return _swept(protocol, rows, "accuracy", list(protocol.values))


def _swept(protocol: Protocol, rows: ProtocolRows, metric: str, costs: list[float]) -> JsonObject:
    train, validation = rows.chosen_on(protocol.validation_share)
    probe = _Probe(protocol, rows, metric)
    scores = {cost: probe.score(cost, train, validation) for cost in sorted(costs)}
    return probe.finish(scores, train, validation)


def _clip(protocol: Protocol, rows: ProtocolRows) -> JsonObject:
    """Search from coarse to fine on a grid of eight steps a decade (appendix A.3)."""
    train, validation = rows.chosen_on(protocol.validation_share)
    probe = _Probe(protocol, rows, "accuracy")
    grid, step = protocol.values, (len(protocol.values) - 1) // 6
    scores: dict[int, float] = {}
    wanted = set(range(0, len(grid), step))
    while step >= 1:
        for at in sorted(wanted - set(scores)):
            scores[at] = probe.score(1 / grid[at], train, validation)
        # Of equals the strongest penalty, as in the end.
        best = max(sorted(scores, reverse=True), key=lambda at: scores[at])
        step //= 2
        wanted = {at for at in (best - step, best + step) if 0 <= at < len(grid)}
    return probe.finish({1 / grid[at]: s for at, s in scores.items()}, train, validation)


class _Probe:
    """Logistic regressions that each start where the one before ended."""

    def __init__(self, protocol: Protocol, rows: ProtocolRows, metric: str) -> None:
        self.rows, self.metric, self.protocol = rows, metric, protocol
        self.several = rows.y.ndim == 2
        self.fits = self._fresh()

    def _fresh(self) -> list[LogisticRegression]:
        n = self.rows.y.shape[1] if self.several else 1
        return [
            LogisticRegression(max_iter=self.protocol.max_iter, warm_start=True) for _ in range(n)
        ]

    def scores(self, cost: float, train: Array, other: Array) -> Floats:
        """Fit at a cost; return log-odds or probabilities, shape (n, n_classes)."""
        X, y = self.rows.X, self.rows.y
        for k, fit in enumerate(self.fits):
            fit.set_params(C=cost).fit(X[train], y[train, k] > 0 if self.several else y[train])
        if self.several:
            return np.stack([fit.decision_function(X[other]) for fit in self.fits], axis=1)
        return np.asarray(self.fits[0].predict_proba(X[other]))

    def score(self, cost: float, train: Array, other: Array) -> float:
        """Fit at a cost and measure on other rows."""
        scores = self.scores(cost, train, other)
        if self.metric == "map11":
            return mean_precision(ap11, self._truth(other), scores)
        called = self.fits[0].classes_[scores.argmax(axis=1)]
        if self.metric == "accuracy":
            return float(np.mean(called == self.rows.y[other]))
        return float(balanced_accuracy_score(self.rows.y[other], called))

    def _truth(self, rows: Array) -> Array:
        return np.asarray(self.rows.indicator[rows])

    def finish(self, scores: dict[float, float], train: Array, validation: Array) -> JsonObject:
        """Take the best cost (the strongest penalty of equals), refit, measure on test rows."""
        cost = max(sorted(scores), key=lambda c: scores[c])
        fitted = np.sort(np.r_[train, validation]) if self.protocol.refit else train
        self.fits = self._fresh()  # there may be classes that only validation rows have
        test = self.rows.split.test
        found = self.scores(cost, fitted, test)
        called = self._called(found)
        if self.metric == "map11":
            figure = precision_figure(ap11, self._truth(test), found, self.rows)
        else:
            figure = evaluate(self.rows.y[test], called.predicted, **self.rows.resampling)[
                self.metric
            ]
        return {
            "called": called,
            "metric": self.metric,
            "figure": figure,
            "chosen": {"C": cost, "lambda": 1 / cost},
            "tried": [[c, scores[c]] for c in sorted(scores)],
            "n_train": len(fitted),
            "n_validation": len(validation),
        }

    def _called(self, found: Floats) -> Predictions:
        if self.several:
            return Predictions((found > 0).astype(int), probabilities=expit(found))
        classes, every = self.fits[0].classes_, np.unique(self.rows.y)
        # A class that only test rows have gets probability zero.
        table = np.zeros((len(found), len(every)))
        table[:, np.searchsorted(every, classes)] = found
        return Predictions(classes[found.argmax(axis=1)], probabilities=table)


SHORT_SIDE_224 = {
    "resize": "crop",
    "resize_size": [224, 224],
    "input_size": [224, 224],
    "interpolation": "bicubic",
    "views": ["none"],
}
"""Of the pictures, for Kornblith's protocol and DINOv2's logistic regression."""

KORNBLITH = Protocol(
    "kornblith",
    "short side 224, centre crop; multinomial L-BFGS; 45 lambda 1e-6..1e5 on validation rows; "
    "refit on training and validation",
    "Kornblith et al. 2019, arXiv 1805.08974; also SimCLR and BYOL",
    _kornblith,
    logspace(-6, 5, 45),
    draws_validation="stratified",
    asks=SHORT_SIDE_224,
    options=("metric",),
)


CLIP = Protocol(
    "clip",
    "penultimate features; L-BFGS, 1000 steps; lambda 1e-6..1e6, 8 a decade, coarse to fine "
    "from 7 seeds; refit on training and validation",
    "Radford et al. 2021, arXiv 2103.00020, appendix A.3",
    _clip,
    logspace(-6, 6, 97),
    draws_validation="stratified",
    asks={"interpolation": "bicubic", "views": ["none"]},
)


DINOV2_LOGREG = Protocol(
    "dinov2-logreg",
    "short side 224, centre crop; C of logspace(-6, 5, 45) on a random tenth of the training rows; "
    "refit on all",
    "Oquab et al. 2023, arXiv 2304.07193",
    _dinov2_logreg,
    logspace(-6, 5, 45),
    validation_share=0.1,
    draws_validation="random",
    asks=SHORT_SIDE_224,
)
