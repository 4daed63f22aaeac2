"""Fit on the training rows, measure on rows that nothing saw: once, repeated, or nested."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from featx.errors import FitError
from featx.evaluation import baseline, evaluate
from featx.evaluation.resampling import wilson
from featx.heads import Head
from featx.samples import Samples
from featx.selection import SearchResult, SplitPlan, leak_warnings, make_folds, make_split, search
from featx.selection.checks import Warn, check_groups, check_labels, few_samples, warn

Rows = NDArray[np.intp]

_SHARES = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "micro_f1",
    "roc_auc",
    "average_precision",
)


@dataclass(frozen=True)
class Scores:
    """What a fitted head says of some rows.

    Parameters
    ----------
    predicted
        Shape (n_samples,): class names, or numbers; 0 and 1, a column a class, for multilabel.
    probabilities
        Shape (n_samples, n_classes), or None.
    """

    predicted: NDArray[Any]
    probabilities: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Measured:
    """A head fitted and measured.

    Parameters
    ----------
    found
        The search whose head is kept.
    train, test
        Positions of the rows that the kept head saw, and of those that measured it.
    scores
        What was predicted for ``test``.
    metrics
        As `featx.evaluation.evaluate` gives them.
    baseline
        As `featx.evaluation.baseline` gives it.
    warnings
        Of the split and of the search.
    """

    found: SearchResult
    train: Rows
    test: Rows
    scores: Scores
    metrics: dict[str, Any]
    baseline: dict[str, Any]
    warnings: list[Warn] = field(default_factory=list)


def score_rows(estimator: Any, X: NDArray[np.float32], classes: list[str]) -> Scores:
    """Predict labels and, where the head gives them, probabilities of all `classes`."""
    if has_several(estimator):
        return _several(estimator, X)
    if not classes or not hasattr(estimator, "predict_proba"):
        return Scores(np.asarray(estimator.predict(X)))
    given = np.asarray(estimator.predict_proba(X), dtype=np.float64)
    # A class without training rows has probability zero, and its column stays.
    probabilities = np.zeros((len(X), len(classes)))
    probabilities[:, [classes.index(str(name)) for name in estimator.classes_]] = given
    return Scores(np.asarray(classes)[probabilities.argmax(axis=1)], probabilities)


def has_several(estimator: Any) -> bool:
    """Whether a fitted head says several labels a row."""
    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    return bool(getattr(last, "multilabel_", False) or getattr(last, "outputs_2d_", False))


def _several(estimator: Any, X: NDArray[np.float32]) -> Scores:
    if not hasattr(estimator, "predict_proba"):
        return Scores(np.asarray(estimator.predict(X), dtype=np.int8))
    given = estimator.predict_proba(X)
    if isinstance(given, list):  # neighbours give a table for each label
        given = np.stack([table[:, 1] for table in given], axis=1)
    probabilities = np.asarray(given, dtype=np.float64)
    return Scores((probabilities > 0.5).astype(np.int8), probabilities)


class Measurement:
    """Who may see which rows, and what came of it."""

    def __init__(
        self, head: Head, samples: Samples, plan: SplitPlan, one_standard_error: bool = False
    ) -> None:
        self.head, self.samples, self.plan = head, samples, plan
        self.one_standard_error = one_standard_error
        self.codes = check_groups(samples.groups, len(samples))
        if samples.split is not None and (plan.nested or plan.repeats > 1):
            what = "--nested" if plan.nested else "--repeats"
            raise FitError(
                f"the source fixes one split, and {what} needs others; pass a share too, as "
                f"--split {plan.test_size:g}"
            )

    def run(self) -> Measured:
        """Fit and measure as planned."""
        return self._nested() if self.plan.nested else self._held_out()

    def _held_out(self) -> Measured:
        done = [self._once(self.plan.seed + k) for k in range(self.plan.repeats)]
        first = done[0]
        if len(done) == 1:
            return first
        share = len(first.test) / len(first.train)
        rows = min(len(self.samples), len(done) * len(first.test))
        first.metrics.update(_repeated([m.metrics for m in done], share, rows))
        first.baseline.update(_repeated([m.baseline for m in done], share, rows))
        return first

    def _once(self, seed: int) -> Measured:
        samples, plan = self.samples, self.plan
        split = make_split(
            samples.y,
            split=samples.split,
            groups=samples.groups,
            test_size=plan.test_size,
            seed=seed,
            task=samples.task,
        )
        self._require_groups(split.train)
        train, folds = split.train, None
        if split.validation is not None:
            # The manifest says where to choose; the chosen head then learns from both parts.
            train = np.concatenate([split.train, split.validation])
            n = len(split.train)
            folds = [(np.arange(n), np.arange(n, len(train)))]
        leaks = leak_warnings(
            train, split.test, digests=samples.digests, groups=samples.groups, y=samples.y
        )
        found = self._search(train, seed, folds)
        scores = self._score(found, split.test)
        return self._measured(found, train, split.test, scores, leaks)

    def _require_groups(self, train: Rows) -> None:
        if self.codes is not None and len(np.unique(self.codes[train])) < 2:
            raise FitError(
                f"{len(np.unique(self.codes))} groups leave one for training and none for the "
                "folds of the search; name a column with more groups"
            )

    def _nested(self) -> Measured:
        plan, samples = self.plan, self.samples
        rounds = [self._outer(plan.seed + k) for k in range(plan.repeats)]
        everything = np.arange(len(samples))
        scores, notes = rounds[0]
        found = self._search(everything, plan.seed, None)
        first = self._measured(found, everything, everything, scores, notes)
        others = [self._evaluate(everything, other) for other, _ in rounds[1:]]
        if others:
            # The rows are the same in every round, so more rounds make no narrower interval.
            first.metrics.update(_averaged([first.metrics, *others]))
        return first

    def _outer(self, seed: int) -> tuple[Scores, list[Warn]]:
        samples = self.samples
        outer, notes = make_folds(
            samples.y,
            folds=self.plan.folds,
            groups=samples.groups,
            seed=seed,
            task=samples.task,
        )
        predicted = samples.y.copy()
        probabilities: NDArray[np.float64] | None = None
        for train, held in outer:
            notes += leak_warnings(train, held, digests=samples.digests, y=samples.y)
            scores = self._score(self._search(train, seed, None), held)
            predicted[held] = scores.predicted
            if scores.probabilities is not None:
                if probabilities is None:
                    probabilities = np.zeros((len(samples), len(samples.classes)))
                probabilities[held] = scores.probabilities
        return Scores(predicted, probabilities), list({w["code"]: w for w in notes}.values())

    def _search(self, train: Rows, seed: int, folds: Any) -> SearchResult:
        samples = self.samples
        if samples.names:
            check_labels(samples.y[train], samples.names)
        return search(
            self.head,
            samples.take(train),
            samples.y[train],
            folds=self.plan.folds if folds is None else folds,
            groups=None if samples.groups is None else samples.groups[train],
            seed=seed,
            sample_weight=None if samples.weights is None else samples.weights[train],
            one_standard_error=self.one_standard_error,
        )

    def _score(self, found: SearchResult, at: Rows) -> Scores:
        parts = [
            score_rows(found.estimator, self.samples.take(some), self.samples.classes)
            for some in _batches(at)
        ]
        return joined(parts)

    def _evaluate(self, test: Rows, scores: Scores) -> dict[str, Any]:
        samples = self.samples
        return evaluate(
            samples.y[test],
            scores.predicted,
            probabilities=scores.probabilities,
            classes=samples.classes or None,
            task=samples.task,
            seed=self.plan.seed,
            groups=None if self.codes is None else self.codes[test],
        )

    def _measured(
        self, found: SearchResult, train: Rows, test: Rows, scores: Scores, notes: list[Warn]
    ) -> Measured:
        y = self.samples.y
        groups = None if self.codes is None else self.codes[test]
        known = baseline(y[train], y[test], task=self.samples.task, groups=groups)
        return Measured(
            found=found,
            train=train,
            test=test,
            scores=scores,
            metrics=self._evaluate(test, scores),
            baseline=known,
            warnings=[
                *notes,
                *found.warnings,
                *self._few_labels(train),
                *self._unseen(train, test),
                *self._few_tests(test),
            ],
        )

    def _unseen(self, train: Rows, test: Rows) -> list[Warn]:
        """Classes that a split of the source keeps from training."""
        if self.samples.task != "classification":
            return []
        y = self.samples.y
        names = np.setdiff1d(y[test], y[train])
        if not len(names):
            return []
        rows, shown = int(np.isin(y[test], names).sum()), ", ".join(map(str, names[:5]))
        text = f"{rows} test rows are of classes without a training row ({shown}), and count wrong"
        return [warn("unknown-classes", text)]

    def _few_labels(self, train: Rows) -> list[Warn]:
        names = self.samples.names
        return few_samples(self.samples.y[train], names) if names else []

    def _few_tests(self, test: Rows) -> list[Warn]:
        if len(test) >= 30:
            return []
        return [warn("few-test-rows", f"{len(test)} test rows leave every figure uncertain")]


def json_ready(value: Any) -> Any:
    """Replace what JSON has no number for by None: the end of an interval may be infinite."""
    if isinstance(value, dict):
        return {key: json_ready(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def joined(parts: list[Scores]) -> Scores:
    """Put the scores of consecutive batches together."""
    given = [p.probabilities for p in parts if p.probabilities is not None]
    return Scores(
        np.concatenate([p.predicted for p in parts]), np.concatenate(given) if given else None
    )


def _batches(at: Rows, n: int = 8192) -> Iterator[Rows]:
    for start in range(0, len(at), n):
        yield at[start : start + n]


def _figures(several: list[dict[str, Any]]) -> dict[str, list[dict[str, float]]]:
    """For each metric that every repeat has, its figures."""
    names = [k for k, v in several[0].items() if isinstance(v, dict) and "low" in v]
    return {
        name: [one[name] for one in several] for name in names if all(name in o for o in several)
    }


def _repeated(several: list[dict[str, Any]], share: float, rows: int) -> dict[str, Any]:
    """Mean over repeats, with the corrected resampled t interval.

    The repeats share rows, so their spread alone is too narrow; Nadeau and Bengio 2003
    (https://doi.org/10.1023/A:1024068626366) add test rows / training rows to 1 / repeats. Shares
    get Wilson's interval of that error, and never one narrower than `rows` rows allow.
    """
    found = {}
    for name, figures in _figures(several).items():
        values = np.array([f["value"] for f in figures])
        n, mean = len(values), float(values.mean())
        error = float(np.sqrt((1 / n + share) * values.var(ddof=1)))
        z = float(stats.t.ppf(0.975, n - 1))
        if name in _SHARES and 0 <= mean <= 1:
            effective = min(rows, mean * (1 - mean) / error**2) if error else rows
            found[name] = {"value": mean, **wilson(mean, max(effective, 1e-9), z)}
            continue
        low = mean - z * error
        low = low if name == "r2" else max(0.0, low)
        found[name] = {"value": mean, "low": low, "high": mean + z * error}
    return found


def _averaged(several: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    return {
        name: {k: float(np.mean([f[k] for f in figures])) for k in ("value", "low", "high")}
        for name, figures in _figures(several).items()
    }
