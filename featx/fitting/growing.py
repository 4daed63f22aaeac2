"""Ridge and LDA with more rows, from stored sums: no old row is read again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from featx.errors import FitError
from featx.evaluation import baseline, evaluate
from featx.fitting.measuring import MeasuredHead
from featx.fitting.options import FitOptions
from featx.fitting.samples import Samples
from featx.fitting.streamed import blocks_of
from featx.heads import HEADS
from featx.model.model import Model
from featx.model.rowsums import MOST_BYTES, RowSums
from featx.model.thresholds import Scores
from featx.seen import digest_seen
from featx.selection import SearchResult, make_folds
from featx.selection.calibration import calibrated, held_probabilities
from featx.selection.candidates import scored
from featx.selection.checks import check_groups, warn
from featx.selection.hyperparameters import SCORING
from featx.selection.splits import Folds
from featx.streaming import STREAMED, Blocks
from featx.streaming.choosing import as_pipeline
from featx.streaming.moments import (
    Linear,
    Moments,
    Statistics,
    gather,
    lda,
    one_hot,
    ridge,
    with_targets,
)
from featx.typing import Estimator

Array = NDArray[Any]

_ROW_BYTES = 16 << 20  # of the training rows that are kept
_LEAST = 5  # rows of each class that are kept


def keep_sums(samples: Samples, at: NDArray[np.intp], estimator: Estimator) -> dict[str, bytes]:
    """Make the member of a model file from which `featx.fit` with ``update`` goes on.

    Parameters
    ----------
    at
        Positions of the rows that the estimator was fitted on.

    Returns
    -------
    members : empty for a head that does not follow from sums, and for very wide features
    """
    width = samples.n_features
    if closed_form(estimator) is None or 4 * width * (width + 1) > MOST_BYTES:
        return {}
    y = _coded(samples.y[at], samples.classes)
    if samples.classes and len(np.unique(y)) < len(samples.classes):
        return {}  # a class without a training row has no mean
    weights = None if samples.weights is None else samples.weights[at]
    targets = _targets(y, samples.classes)
    found = gather(blocks_of(samples, at), targets, np.full(len(at), -1), 0, weights)
    kept = _kept(y, bool(samples.classes), width)
    return RowSums(
        shift=found.shift,
        moments=found.whole,
        y=y,
        at=kept,
        X=samples.take(at[kept]),
        groups=_group_digests(samples.groups, at[kept]),
        weights=np.empty(0) if weights is None else weights[kept],
    ).members()


def closed_form(estimator: Estimator) -> tuple[str, float] | None:
    """Give the name and strength of a head that follows from sums; None for any other."""
    if hasattr(estimator, "calibrated_classifiers_"):
        estimator = estimator.calibrated_classifiers_[0].estimator
    if not isinstance(estimator, Pipeline) or [*estimator.named_steps] != ["scale", "clf"]:
        return None
    scale, clf = estimator["scale"], estimator["clf"]
    for name in ("ridge", "ridge-reg", "lda"):
        plain, parameter = HEADS[name].build()["clf"], STREAMED[name].removeprefix("clf__")
        if type(clf) is not type(plain) or type(scale) is not StandardScaler:
            continue
        strength = clf.get_params()[parameter]
        same = clf.get_params() == plain.set_params(**{parameter: strength}).get_params()
        if same and isinstance(strength, float) and scale.with_mean and scale.with_std:
            return name, strength
    return None


@dataclass(frozen=True)
class Grown:
    """A model's head with more rows, what was measured on these, and its sums."""

    measured: MeasuredHead
    sums: RowSums
    classes: list[str]
    n_train: int
    measured_by: str


def take_in(model: Model, sums: RowSums, samples: Samples, options: FitOptions) -> Grown:
    """Add rows to a model's sums, solve, and measure on the new rows.

    Each new row is predicted by a head without its fold. The scale of ridge's probabilities is
    fitted on such predictions of the new rows and of the old rows that the model kept.

    Parameters
    ----------
    samples
        New rows (`new_rows`).

    Raises
    ------
    FitError
        If a class has one row.
    """
    return _Growing(model, sums, samples, options).run()


class _Growing:
    """Old rows that were kept, then the new ones, under all classes."""

    def __init__(self, model: Model, sums: RowSums, new: Samples, options: FitOptions) -> None:
        found = closed_form(model.estimator)
        assert found is not None
        self.name, self.strength = found
        self.model, self.new, self.options = model, new, options
        self.classes = sorted({*model.classes, *new.classes})
        self.m = len(sums.at)
        old = sums.y
        if self.classes:
            columns = [self.classes.index(name) for name in model.classes]
            old = np.array(columns)[sums.y]
            moments = with_targets(sums.moments, columns, len(self.classes))
            sums = replace(sums, y=old, moments=moments)
        self.sums = sums
        self.y = np.concatenate([old[sums.at], _coded(new.y, self.classes)])
        self.everything = np.concatenate([old, self.y[self.m :]])
        self.groups = self._groups()
        self.weights = self._weights()

    def run(self) -> Grown:
        folds = self._folds()
        fold_of = np.full(len(self.y), -1)
        for k, (_, held) in enumerate(folds):
            fold_of[held] = k
        shift, targets = self.sums.shift, _targets(self.y, self.classes)
        blocks = Blocks(self._read, len(self.y), self.new.n_features)
        parts = gather(blocks, targets, fold_of, len(folds), self.weights, shift)
        added = gather(
            blocks_of(self.new, np.arange(len(self.new))),
            targets[self.m :],
            np.full(len(self.new), -1),
            0,
            None if self.weights is None else self.weights[self.m :],
            shift,
        )
        whole = self.sums.moments + added.whole
        heads = [self._solve(whole - held, shift) for held in parts.folds]
        said = np.concatenate([*blocks.map(lambda at, X: _decisions(X, heads, fold_of[at]))])
        names = np.array(self.classes) if self.classes else None
        params = {STREAMED[self.name]: self.strength}
        estimator: Estimator = as_pipeline(
            HEADS[self.name], params, self._solve(whole, shift), names, Statistics(shift, whole, [])
        )
        scale: Any = "own" if names is None else self.model.figures["chosen"]["scale"]
        if scale != "own":
            every, weights = self._stands_for()
            estimator, _ = calibrated(estimator, said, every, len(folds), scale, weights)
        scores = self._scores(said, folds, scale)
        return Grown(
            measured=self._measured(scores, folds, estimator, params, scale),
            sums=self._grown(whole),
            classes=self.classes,
            n_train=len(self.everything) - max(len(held) for _, held in folds),
            measured_by="the new rows, each predicted from the old rows and the other new ones",
        )

    def _folds(self) -> Folds:
        y, few = self.y, 5
        if self.classes:
            y = np.array(self.classes)[self.y]
            names, counts = np.unique(y, return_counts=True)
            few = int(counts.min())
            if few < 2:
                raise FitError(
                    f"class {str(names[counts.argmin()])!r} has 1 row, and an update needs 2 of "
                    "each class; add another, or leave it out"
                )
        folds = max(2, min(self.options.folds, few))
        how: dict[str, Any] = {"groups": self.groups, "seed": self.options.seed}
        return make_folds(y, folds=folds, task=self.new.task, **how)[0]

    def _read(self, at: NDArray[np.intp]) -> NDArray[np.float32]:
        m = self.m
        return np.concatenate([self.sums.X[at[at < m]], self.new.take(at[at >= m] - m)])

    def _groups(self) -> Array | None:
        old, new = self.sums.groups, _group_digests(self.new.groups, np.arange(len(self.new)))
        if not len(old) and not len(new):
            return None
        # A row without a group is a group of its own.
        alone = np.arange(len(self.y), dtype=np.uint64)
        return np.concatenate(
            [old if len(old) else alone[: self.m], new if len(new) else alone[self.m :]]
        )

    def _weights(self) -> Array | None:
        old, new = self.sums.weights, self.new.weights
        if not len(old) and new is None:
            return None
        return np.concatenate(
            [
                old if len(old) else np.ones(self.m),
                np.ones(len(self.new)) if new is None else new,
            ]
        )

    def _solve(self, sums: Moments, shift: Array) -> Linear:
        if self.name == "lda":
            return lda(sums, shift, [self.strength])[0]
        return ridge(sums, shift, [self.strength], bool(self.classes))[0]

    def _stands_for(self) -> tuple[Array, Array | None]:
        """Names of the rows, and weights: one that was kept stands for those that were not."""
        weights = np.ones(len(self.y)) if self.weights is None else self.weights
        every, kept = np.bincount(self.everything), np.bincount(self.y)
        found = weights * (every / np.maximum(kept, 1))[self.y]
        return np.array(self.classes)[self.y], None if np.ptp(found) == 0 else found

    def _scores(self, said: Array, folds: Folds, scale: Any) -> Scores:
        """Held-out predictions of the new rows, by scales that they did not set."""
        new = slice(self.m, None)
        if not self.classes:
            return Scores(said[new, 0])
        names, weights = self._stands_for()
        table = held_probabilities(said, names, folds, scale, weights)
        return Scores(np.array(self.classes)[table[new].argmax(axis=1)], table[new])

    def _measured(
        self, scores: Scores, folds: Folds, estimator: Estimator, params: dict[str, Any], scale: str
    ) -> MeasuredHead:
        new, task, seed = self.new, self.new.task, self.options.seed
        codes = check_groups(new.groups, len(new))
        metrics = evaluate(
            new.y,
            scores.predicted,
            probabilities=scores.probabilities,
            classes=self.classes or None,
            task=task,
            seed=seed,
            groups=codes,
        )
        before = self.everything if not self.classes else np.array(self.classes)[self.everything]
        constant = baseline(before, new.y, task=task, groups=codes)
        value = np.array(
            [metrics[{"classification": "accuracy", "regression": "r2"}[task]]["value"]]
        )
        kept = SearchResult(
            head=self.name,
            best_params=params,
            best_score=float(value[0]),
            table=[scored(params, value)],
            scoring=SCORING[task],
            folds=len(folds),
            at_edge=[],
            warnings=[],
            estimator=estimator,
            calibrated=scale != "own",
            scale=scale,
        )
        rows = np.arange(len(new))
        return MeasuredHead(
            found=kept,
            train=rows[:0],
            test=rows,
            scores=scores,
            metrics=metrics,
            baseline=constant,
            kept=kept,
            trained=rows,
            warnings=[*new.notes, *self._notes()],
        )

    def _notes(self) -> list[dict[str, str]]:
        found = []
        asked, _ = digest_seen(self.new.ids.tolist(), self.new.digests)
        twice = int(np.isin(asked["content"], self.model.seen["content"]).sum())
        if twice:
            text = f"{twice} of the new rows are copies of rows that the model was fitted on"
            found.append(warn("duplicates-across-split", text))
        if len(self.new) < 30:
            text = f"{len(self.new)} test rows leave every figure uncertain"
            found.append(warn("few-test-rows", text))
        return found

    def _grown(self, whole: Moments) -> RowSums:
        m, old = self.m, len(self.sums.y)
        kept = _kept(self.y, bool(self.classes), self.new.n_features)
        place = np.concatenate([self.sums.at, old + np.arange(len(self.new))])
        groups, weights = self.groups, self.weights
        return RowSums(
            shift=self.sums.shift,
            moments=whole,
            y=self.everything,
            at=place[kept],
            X=np.concatenate([self.sums.X[kept[kept < m]], self.new.take(kept[kept >= m] - m)]),
            groups=np.empty(0, np.uint64) if groups is None else groups[kept],
            weights=np.empty(0) if weights is None else weights[kept],
        )


def _coded(y: Array, classes: list[str]) -> Array:
    return np.searchsorted(np.array(classes), y) if classes else y.astype(np.float64)


def _targets(y: Array, classes: list[str]) -> Any:
    return one_hot(y, len(classes)) if classes else y[:, None]


def _kept(y: Array, are_classes: bool, width: int) -> NDArray[np.int64]:
    """Choose the rows that are kept: all, or of very many an even part of each class."""
    most = max(1, _ROW_BYTES // (4 * width))
    if len(y) <= most:
        return np.arange(len(y))
    strata = y if are_classes else np.zeros(len(y), np.intp)
    chosen = []
    for code in np.unique(strata):
        rows = np.flatnonzero(strata == code)
        n = min(len(rows), max(_LEAST, most * len(rows) // len(y)))
        chosen.append(rows[np.unique(np.linspace(0, len(rows) - 1, n).astype(int))])
    return np.sort(np.concatenate(chosen))


def _group_digests(groups: Array | None, at: Array) -> NDArray[np.uint64]:
    if groups is None:
        return np.empty(0, np.uint64)
    short = [hashlib.sha256(str(name).encode()).digest()[:8] for name in groups[at]]
    return np.frombuffer(b"".join(short), "<u8").astype(np.uint64)


def _decisions(X: Array, heads: list[Linear], fold_of: Array) -> Array:
    """Decide each row by the head of the fold that holds it out: shape (n_rows, n_outputs)."""
    found = np.empty((len(X), len(heads[0].intercept)))
    for k, head in enumerate(heads):
        at = fold_of == k
        z = (X[at] - head.scale.mean) / head.scale.scale
        found[at] = z @ head.coef.T + head.intercept
    return found
