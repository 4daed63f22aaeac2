"""A head fitted on the present labels: its predictions, its doubts, and what to label next."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from featx.auditing import unit_rows
from featx.cache.cache import Cache, open_cache
from featx.cache.features import Features
from featx.errors import FitError
from featx.evaluation import baseline, evaluate
from featx.fitting.judging import Judgement, judge_labels
from featx.fitting.options import FitOptions
from featx.model.thresholds import score_rows
from featx.selection.checks import Warn
from featx.typing import Estimator, JsonObject

_BLOCK = 8192  # rows that are predicted at a time
_CANDIDATES = 2000  # unlabelled rows that compete for the next places
_NEXT = 120  # places that are filled
_CLUSTERS = 40


@dataclass(frozen=True)
class Refit:
    """Predictions and doubts of a head that was fitted on the labels.

    Parameters
    ----------
    labels
        Label of each row, None where there was none.
    predicted
        Class of each row, None where its features are not finite.
    confidence, margin
        Of each row: the highest probability, and how far it lies above the second; shape (n_rows,).
    quality
        Of each labelled row: how well its label agrees with heads that had not seen it, from 0
        (surely wrong) to 1; NaN elsewhere.
    suspects
        Rows whose label is likely wrong, the most suspect first.
    suggested
        What these heads say instead, by row.
    metrics, baseline
        Of the labelled rows, each predicted by a head that had not seen it.
    seconds
        Duration of the refit.
    """

    labels: list[str | None]
    predicted: list[str | None]
    confidence: NDArray[np.float64]
    margin: NDArray[np.float64]
    quality: NDArray[np.float64]
    suspects: NDArray[np.int64]
    suggested: dict[int, str]
    metrics: JsonObject
    baseline: JsonObject
    warnings: list[Warn] = field(default_factory=list)
    seconds: float = 0.0


def refit_labels(known: Cache, labels: list[str | None], head: str, options: FitOptions) -> Refit:
    """Fit a head on some labels of a cache, and judge each by heads that had not seen it.

    Parameters
    ----------
    known
        The cache, open; its own labels do not count.
    labels
        Label of each row; None for none.

    Raises
    ------
    FitError
        If two classes with two rows each are not there yet, the head gives no probabilities, or the
        file holds other rows by now.
    """
    start = time.monotonic()
    counts = Counter(label for label in labels if label is not None)
    if sum(n > 1 for n in counts.values()) < 2:
        raise FitError("a head needs two classes with two pictures each: label a few more")
    with _relabelled(known, labels) as cache:
        judged = judge_labels(cache, head, options, labels, progress=False)
        if judged.plan is None or judged.scores is None or judged.issues is None:
            raise FitError(judged.warnings[-1]["message"])
        fitted = judged.plan.search(np.arange(len(judged.samples)), options.seed).estimator
        predictions = _predict_all(fitted, judged.samples.features, judged.samples.classes)
    return _refit(judged, labels, predictions, options.seed, start)


Predictions = tuple[list[str | None], NDArray[np.float64], NDArray[np.float64]]


def _predict_all(head: Estimator, X: Features | None, classes: list[str]) -> Predictions:
    """Give the class, the confidence and the margin of every row, read by blocks."""
    assert X is not None
    n = len(X)
    predicted: list[str | None] = [None] * n
    confidence, margin = np.zeros(n), np.zeros(n)
    for first in range(0, n, _BLOCK):
        some = np.asarray(X[first : first + _BLOCK], np.float32)
        finite = np.flatnonzero(np.isfinite(some).all(axis=1))
        if not len(finite):
            continue
        scores = score_rows(head, some[finite], classes)
        assert scores.probabilities is not None
        two = np.sort(scores.probabilities, axis=1)[:, -2:]
        confidence[first + finite], margin[first + finite] = two[:, 1], two[:, 1] - two[:, 0]
        for at, name in zip(finite.tolist(), scores.predicted, strict=True):
            predicted[first + at] = str(name)
    return predicted, confidence, margin


def _refit(
    judged: Judgement, labels: list[str | None], predictions: Predictions, seed: int, start: float
) -> Refit:
    samples, scores, issues = judged.samples, judged.scores, judged.issues
    assert scores is not None
    assert issues is not None
    predicted, confidence, margin = predictions
    quality = np.full(len(labels), np.nan)
    quality[samples.rows] = issues.quality
    ranked = issues.ranked.tolist()
    metrics = evaluate(
        samples.y,
        scores.predicted,
        probabilities=scores.probabilities,
        classes=samples.classes,
        seed=seed,
        groups=samples.groups,
    )
    return Refit(
        labels=labels,
        predicted=predicted,
        confidence=confidence,
        margin=margin,
        quality=quality,
        suspects=samples.rows[issues.ranked],
        suggested={int(samples.rows[k]): str(issues.suggested[k]) for k in ranked},
        metrics=metrics,
        baseline=baseline(samples.y, samples.y, seed=seed, groups=samples.groups),
        warnings=judged.warnings,
        seconds=time.monotonic() - start,
    )


def rank_next(X: Features, blank: Sequence[int], fit: Refit | None, seed: int) -> list[int]:
    """Choose which rows without a label to label next, the first first.

    Before a head is there, one row of each cluster, the largest first: typical rows serve best
    where there are few labels (Hacohen, Dekel and Weinshall 2022,
    https://arxiv.org/abs/2202.02794). Then rows whose two best classes lie close together, each far
    from those before it.

    Parameters
    ----------
    X
        Features of all rows, shape (n_rows, n_features).
    blank
        Rows without a label.
    fit
        The last refit, if there is one.
    """
    rows = np.asarray(blank, np.int64)
    if fit is None:
        some = np.random.default_rng(seed).permutation(rows)[:_CANDIDATES]
    else:
        some = rows[np.argsort(fit.margin[rows], kind="stable")][:_CANDIDATES]
    order = np.argsort(some)
    vectors = np.empty((len(some), X.shape[1]), np.float32)
    vectors[order] = X[some[order]]
    finite = np.isfinite(vectors).all(axis=1)
    some, unit = some[finite], unit_rows(vectors[finite])
    if len(some) < 3:
        return [int(row) for row in some]
    return _typical(some, unit, seed) if fit is None else _apart(some, unit, fit.margin)


def _typical(rows: NDArray[np.int64], X: NDArray[np.float32], seed: int) -> list[int]:
    from sklearn.cluster import KMeans

    k = min(_CLUSTERS, max(2, len(rows) // 5))
    found = KMeans(k, n_init=1, random_state=seed).fit(X)
    sizes = np.bincount(found.labels_, minlength=k)
    distances = ((X - found.cluster_centers_[found.labels_]) ** 2).sum(axis=1)
    places = [np.flatnonzero(found.labels_ == c) for c in np.argsort(-sizes, kind="stable")]
    ranked = [at[np.argsort(distances[at], kind="stable")] for at in places if len(at)]
    rounds = max(map(len, ranked))
    picked = [at[r] for r in range(rounds) for at in ranked if r < len(at)]
    return [int(rows[at]) for at in picked[:_NEXT]]


def _apart(
    rows: NDArray[np.int64], X: NDArray[np.float32], margin: NDArray[np.float64]
) -> list[int]:
    unsure = 1 - margin[rows]
    farness = np.ones(len(rows))
    left = np.ones(len(rows), bool)
    picked: list[int] = []
    for _ in range(min(_NEXT, len(rows))):
        at = int(np.argmax(np.where(left, unsure * farness, -1.0)))
        picked.append(int(rows[at]))
        left[at] = False
        farness = np.minimum(farness, np.clip(1 - X @ X[at], 0, 1))
    return picked


def _relabelled(known: Cache, labels: Sequence[str | None]) -> Cache:
    """Open a cache again, its rows with other labels and no split; the file stays as it is."""
    found = open_cache(known.path)
    if found.fingerprint != known.fingerprint or list(found.ids) != list(known.ids):
        found.close()
        raise FitError(f"{known.path} was written anew, with other rows; start the studio again")
    found.classes = sorted({label for label in labels if label is not None})
    codes = {name: k for k, name in enumerate(found.classes)}
    found.y = np.array([-1 if v is None else codes[v] for v in labels], np.int32)
    found.split = None
    return found
