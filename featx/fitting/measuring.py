"""Fit on the training rows, measure on rows that nothing saw: once, repeated, or nested."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from featx.errors import FitError
from featx.evaluation import baseline, evaluate, over_repeats
from featx.evaluation.pairing import over_rounds, values_of
from featx.fitting.samples import Samples
from featx.heads import LARGE_ROWS, Head, option_of
from featx.model.thresholds import Scores, joined, score_rows
from featx.selection import SearchResult, SplitPlan, leak_warnings, make_folds, make_split, search
from featx.selection.candidates import plain_names
from featx.selection.checks import (
    Warn,
    check_groups,
    check_labels,
    few_samples,
    few_test_rows,
    fewer_folds,
    has_single,
    unknown_classes,
)
from featx.selection.fold import Device
from featx.selection.hyperparameters import SearchOptions, search_several
from featx.selection.splits import fold_of_part
from featx.selection.sweep import Step, fits_of
from featx.typing import JsonObject, RowValues

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class MeasuredHead:
    """A head fitted and measured.

    Parameters
    ----------
    found
        The search that was measured; of several splits, that of the first.
    train, test
        Positions of the rows that it saw, and of those that measured it.
    scores
        What was predicted for ``test``.
    metrics
        As `featx.evaluation.evaluate` gives them.
    baseline
        As `featx.evaluation.baseline` gives it.
    warnings
        Of the split and of the search.
    kept
        The search whose head is kept, after the measurement: on `trained`, without a look at the
        figures.
    trained
        Positions of the rows that the kept head saw.
    won
        How often each (head, number of the features) was chosen in the searches that were measured.
    fold_of
        Outer fold that held out each row, of the first round; None where folds held out no rows.
    """

    found: SearchResult
    train: Rows
    test: Rows
    scores: Scores
    metrics: JsonObject
    baseline: JsonObject
    kept: SearchResult
    trained: Rows
    warnings: list[Warn] = field(default_factory=list)
    won: Mapping[tuple[str, int], int] = field(default_factory=dict)
    fold_of: Rows | None = None

    def apart(self, a: Rows, b: Rows) -> NDArray[np.bool_]:
        """Say of pairs of positions whether one tested a head that had seen the other."""
        if self.fold_of is not None:
            return np.asarray(self.fold_of[a] != self.fold_of[b])
        train, test = (np.isin(np.stack([a, b]), part) for part in (self.train, self.test))
        return np.asarray((train[0] & test[1]) | (train[1] & test[0]))


class Measurement:
    """Who may see which rows, and what came of it."""

    def __init__(
        self,
        head: Head,
        fields: Samples | Sequence[Samples],
        plan: SplitPlan,
        one_standard_error: bool = False,
        device: Device | None = None,
    ) -> None:
        self.fields = [fields] if isinstance(fields, Samples) else list(fields)
        self.head, self.samples, self.plan = head, self.fields[0], plan
        samples = self.samples
        self.competing = bool(head.options) or len(self.fields) > 1
        self.scales = bool(head.options)
        self.won: Counter[tuple[str, int]] = Counter()
        self.one_standard_error, self.device = one_standard_error, device
        self.codes = check_groups(samples.groups, len(samples))
        self.step: Step | None = None
        self.fold_of: Rows | None = None
        self.scoring: str | None = None
        self.most_searched: int | None = None
        self.memory: dict[str, str] = {}
        self.notes: list[Warn] = []
        if samples.split is not None and (plan.nested or plan.repeats > 1):
            what = "--nested" if plan.nested else "--repeats"
            raise FitError(
                f"the source fixes one split, and {what} needs others; pass a share too, as "
                f"--split {plan.test_size:g}"
            )

    def run(self) -> MeasuredHead:
        """Fit and measure as planned, then fit the head that is kept."""
        with warnings.catch_warnings():
            # What scikit-learn suspects of as many classes as rows is known where there are few.
            if self.plan.few:
                warnings.filterwarnings("ignore", message="The number of unique classes")
            return self._run()

    def _run(self) -> MeasuredHead:
        if self.plan.nested:
            return self._nested()
        measured = self._held_out()
        whole = self.samples.split is None if self.plan.fit_on == "auto" else None
        return self._fitted_on_all(measured) if whole or self.plan.fit_on == "all" else measured

    @property
    def fits(self) -> int:
        """Number of fits that `run` makes, about: so many are told to `step`."""
        plan = self.plan
        outer = self._n_folds(self.samples.y) if plan.nested else 1
        # A head that was measured once is fitted on all rows without another search.
        again = plan.nested or plan.repeats > 1
        return (plan.repeats * outer + again) * self.fits_of_search

    @property
    def fits_of_search(self) -> int:
        """Number of fits that one search makes, about."""
        samples = self.samples
        n_classes = len(samples.classes) if samples.task == "classification" else 2
        one = fits_of(self.head, len(samples), self.plan.folds, n_classes=n_classes)
        return len(self.fields) * one

    def _fitted_on_all(self, measured: MeasuredHead) -> MeasuredHead:
        """Fit on every row: with the settings that were measured, or by the whole search again.

        Several splits may have chosen several settings, and a head may be another one on more
        rows; the search then chooses once more, on all rows.
        """
        everything = np.arange(len(self.samples))
        fixed = None if self.plan.repeats > 1 else self._settled(measured)
        if fixed is None:
            kept = self.search(everything, self.plan.seed)
        else:
            again, first = copy.copy(self), measured.found
            again.head, again.fields = fixed, [self.fields[first.place]]
            kept = again.search(everything, self.plan.seed)
            # The scores are those of the choice, which was made before.
            names = ("best_score", "table", "folds", "at_edge", "options", "place")
            kept = replace(kept, **{name: getattr(first, name) for name in names})
        said = {note["code"] for note in measured.warnings}
        notes = [note for note in kept.warnings if note["code"] not in said]
        return replace(
            measured, kept=kept, trained=everything, warnings=[*measured.warnings, *notes]
        )

    def _settled(self, measured: MeasuredHead) -> Head | None:
        """The head with the settings that were measured; None where it has to search again."""
        head = option_of(self.head, measured.found.head)
        params = measured.found.best_params
        grown = len(measured.train) <= LARGE_ROWS < len(self.samples)
        if head.parts or not params or (grown and (head.large is not None or head.many)):
            return None
        named = params if "clf" in params else plain_names(params)
        fixed = head.with_grid({name: [value] for name, value in named.items()})
        return replace(fixed, against_rest=False)

    def _held_out(self) -> MeasuredHead:
        done = [self._once(self.plan.seed + k) for k in range(self.plan.repeats)]
        first = done[0]
        if len(done) == 1:
            return first
        share = len(first.test) / len(first.train)
        units = min(len(self.samples), len(done) * len(first.test))
        if self.codes is not None:  # rows of one group are all right, or wrong, together
            units = len(np.unique(self.codes[np.concatenate([one.test for one in done])]))
        for figures in ("metrics", "baseline"):
            rounds = [values_of(getattr(one, figures)) for one in done]
            getattr(first, figures).update(over_repeats(rounds, share, units))
        return first

    def _once(self, seed: int) -> MeasuredHead:
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
        found = self._counted(train, seed, folds)
        scores = self.score(found, split.test)
        return self._measured(found, train, split.test, scores, leaks)

    def _require_groups(self, train: Rows) -> None:
        if self.codes is not None and len(np.unique(self.codes[train])) < 2:
            raise FitError(
                f"{len(np.unique(self.codes))} groups leave one for training and none for the "
                "folds of the search; name a column with more groups"
            )

    def _nested(self) -> MeasuredHead:
        plan, samples = self.plan, self.samples
        rounds = [self._outer(plan.seed + k) for k in range(plan.repeats)]
        everything = np.arange(len(samples))
        scores, notes = rounds[0]
        found = self.search(everything, plan.seed)
        first = self._measured(found, everything, everything, scores, notes)
        first = replace(first, fold_of=self.fold_of)
        others = [self._evaluate(everything, other) for other, _ in rounds[1:]]
        if others:
            # The rows are the same in every round, so more rounds make no narrower interval.
            first.metrics.update(over_rounds([first.metrics, *others]))
        return first

    def held_out(self, scoring: str | None = None, most_searched: int | None = None) -> Scores:
        """Predict every row by a head that was chosen and fitted without it, groups kept.

        Parameters
        ----------
        scoring
            As in `featx.selection.search`; features that are read in blocks keep their own.
        most_searched
            Rows beyond which settings are chosen on a random part of so many, one fold held out;
            the head is then fitted on all of them. No limit when None.
        """
        self.scoring, self.most_searched = scoring, most_searched
        return self._outer(self.plan.seed)[0]

    def _outer(self, seed: int) -> tuple[Scores, list[Warn]]:
        samples = self.samples
        outer, notes = make_folds(
            samples.y,
            folds=self._n_folds(samples.y),
            groups=samples.groups,
            seed=seed,
            task=samples.task,
        )
        if self.fold_of is None:
            self.fold_of = np.zeros(len(samples), np.intp)
            for k, (_, held) in enumerate(outer):
                self.fold_of[held] = k
        predicted = samples.y.copy()
        probabilities: NDArray[np.float64] | None = None
        for train, held in outer:
            notes += leak_warnings(train, held, digests=samples.digests, y=samples.y)
            scores = self.score(self._counted(train, seed), held)
            predicted[held] = scores.predicted
            if scores.probabilities is not None:
                if probabilities is None:
                    probabilities = np.zeros((len(samples), len(samples.classes)))
                probabilities[held] = scores.probabilities
        return Scores(predicted, probabilities), list({w["code"]: w for w in notes}.values())

    def search(self, train: Rows, seed: int, folds: object = None) -> SearchResult:
        """Search and fit on some rows; as many folds as planned, or the given ones."""
        samples = self.samples
        if samples.names:
            check_labels(samples.y[train], samples.names)
        if folds is None and self.most_searched and len(train) > self.most_searched:
            groups = None if samples.groups is None else samples.groups[train]
            y, task = samples.y[train], samples.task
            folds = fold_of_part(y, self.most_searched, groups=groups, seed=seed, task=task)
        how = {**self._how(train, seed, folds), "scoring": self.scoring}
        if not self.competing:
            X = samples.take(train)
            return search(self.head, X, samples.y[train], device=self.device, **how)
        several = [partial(one.take, train) for one in self.fields]
        asked = SearchOptions(**how, device=self.device)
        return search_several(self.head, several, samples.y[train], asked, scales=self.scales)

    def _counted(self, train: Rows, seed: int, folds: object = None) -> SearchResult:
        """Search as part of the measurement, and count who won."""
        found = self.search(train, seed, folds)
        self.won[found.head, found.place] += 1
        return found

    def _n_folds(self, y: RowValues) -> int:
        """As many folds as planned; where heads compete, no more than the rarest class has rows."""
        if not (self.competing or self.plan.few) or self.samples.task != "classification":
            return self.plan.folds
        fewest = int(np.unique(y, return_counts=True)[1].min())
        return max(2, min(self.plan.folds, fewest))

    def _how(self, train: Rows, seed: int, folds: object) -> JsonObject:
        """How these rows are searched, in memory or not."""
        samples = self.samples
        if folds is None and self.plan.few and has_single(samples.y[train]):
            # No fold leaves a row of each class on both sides.
            folds = [(np.arange(len(train)), np.arange(len(train)))]
        return {
            "folds": self._n_folds(samples.y[train]) if folds is None else folds,
            "groups": None if samples.groups is None else samples.groups[train],
            "seed": seed,
            "sample_weight": None if samples.weights is None else samples.weights[train],
            "one_standard_error": self.one_standard_error,
            "step": self.step,
        }

    def score(self, found: SearchResult, at: Rows) -> Scores:
        """Predict some rows, read a few thousand at a time."""
        samples = self.fields[found.place]
        parts = [
            score_rows(found.estimator, samples.take(some), samples.classes)
            for some in _batches(at)
        ]
        return joined(parts)

    def _evaluate(self, test: Rows, scores: Scores) -> JsonObject:
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
    ) -> MeasuredHead:
        y = self.samples.y
        groups = None if self.codes is None else self.codes[test]
        known = baseline(y[train], y[test], task=self.samples.task, groups=groups)
        return MeasuredHead(
            found=found,
            train=train,
            test=test,
            scores=scores,
            metrics=self._evaluate(test, scores),
            baseline=known,
            kept=found,
            trained=train,
            warnings=[
                *self.samples.notes,
                *self.notes,
                *notes,
                *found.warnings,
                *(few_samples(y[train], self.samples.names) if self.samples.names else ()),
                *self._unsure(y, train, test),
            ],
            won=self.won,
        )

    def _unsure(self, y: RowValues, train: Rows, test: Rows) -> list[Warn]:
        """What makes the figures uncertain, or too low."""
        notes: list[Warn] = []
        if self.samples.task == "classification":
            notes += unknown_classes(y[train], y[test])
            notes += fewer_folds(y, self.plan.folds) if self.competing else []
        return [*notes, *few_test_rows(len(test))]


def _batches(at: Rows, n: int = 8192) -> Iterator[Rows]:
    for start in range(0, len(at), n):
        yield at[start : start + n]
