"""Options of `featx.fit`, and its result."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Literal, get_type_hints

import numpy as np

from featx.arguments import require_types, several
from featx.cache.cache import Cache
from featx.errors import FitError
from featx.fitting.columns import Columns, load_samples
from featx.fitting.deciding import DecisionTarget
from featx.fitting.samples import Samples, require_seed
from featx.heads import Head
from featx.selection import SplitPlan
from featx.typing import JsonObject


@dataclass(frozen=True)
class FitOptions:
    """How `fit` works; every field is an option of ``featx fit``.

    Parameters
    ----------
    tap
        Whose features are used, several side by side as ``a,b``; when None the first of the cache,
        and all of them for a stack.
    label
        Column taken as the label.
    groups
        Column whose groups stay on one side; a column called ``group`` when None.
    split
        ``auto`` (the manifest's split, else a stratified quarter is held out), a column, or the
        share of test rows.
    folds
        Folds of the search, and outer folds when `nested`.
    repeats
        How many splits are measured; when None one, or for ``auto`` as `featx.fitting.options`
        says.
    nested
        Measure every row by outer folds, each with a search of its own; None as for `repeats`.
    weights_column
        Column with the weight of each row in fitting.
    fit_on
        Rows of the model that is kept: ``all`` of them once it was measured; ``train``, which
        leaves the test rows for `featx.evaluate`; or ``auto``: all, but for test rows that the
        source marks itself.
    seed
        Of every shuffle.
    one_standard_error
        Choose the simplest candidate within one standard error of the best.
    protocol
        Judge the features as a paper does (`featx.protocols.PROTOCOLS`) in place of fitting a head.
    metric
        Of the protocol ``kornblith``: ``accuracy``, ``per-class`` or ``11-point``.
    shots, episodes
        Of the protocols ``k-shot`` and ``vissl-low-shot``: training rows of each class, and draws.
    precision_at
        Answer a class only above the probability that promises it this precision on new rows.
    cost
        ``FALSE_POSITIVE:FALSE_NEGATIVE``: the threshold of two classes that costs least.
    abstain
        Abstain below the probability that promises at most this share of errors among the answers.
    confidence
        Share of draws of training rows in which `precision_at` or `abstain` is kept on new rows.
    sets
        Predict sets of classes too; in each class, this share of the new rows has it in its set.
    slices
        Column for each of whose values the test rows are measured, too.
    memory
        ``auto`` reads features in blocks where they would not fit into free memory, ``stream``
        does so always, ``ram`` never; heads that stream are `featx.streaming.STREAMED`.
    device
        Where candidates of ``logreg`` are fitted: ``cpu``, ``cuda`` or ``cuda:1``; the head
        that is kept is fitted on the processor.
    rare
        ``error`` refuses classes with too few rows, all by name; ``drop`` leaves them out.
    force
        Replace files at `out` and `report` that featx did not write.
    fetch
        Fetch pictures from the addresses that the cache names.
    """

    tap: str | None = None
    label: str | None = None
    groups: str | None = None
    split: str | float = "auto"
    folds: int = 5
    repeats: int | None = None
    nested: bool | None = None
    weights_column: str | None = None
    fit_on: Literal["auto", "all", "train"] = "auto"
    seed: int = 0
    one_standard_error: bool = False
    protocol: str | None = None
    metric: Literal["accuracy", "per-class", "11-point"] | None = None
    shots: tuple[int, ...] | None = None
    episodes: int | None = None
    precision_at: float | None = None
    cost: str | None = None
    abstain: float | None = None
    confidence: float = 0.9
    sets: float | None = None
    slices: str | None = None
    memory: Literal["auto", "stream", "ram"] = "auto"
    device: str = "cpu"
    rare: Literal["error", "drop"] = "error"
    force: bool = False
    fetch: bool = False

    def __post_init__(self) -> None:
        require_types("fit", _hints(), vars(self))
        require_seed(self.seed)
        for name in ("metric", "shots", "episodes"):
            if self.protocol is None and getattr(self, name) is not None:
                with_it = "kornblith" if name == "metric" else "k-shot"
                raise FitError(f"--{name} goes with a protocol, as --protocol {with_it}")
        if self.sets is not None and not 0 < self.sets < 1:
            raise FitError(f"--sets is {self.sets:g}; expected a share in (0, 1), as 0.9")

    @classmethod
    def of(cls, **options: Any) -> FitOptions:
        """Build from keyword arguments as `featx.fit` takes them: several taps become ``a,b``."""
        tap = options.get("tap")
        if tap is not None and not isinstance(tap, str):
            options["tap"] = ",".join(tap) or None
        if options.get("shots") is not None:
            options["shots"] = tuple(several(options["shots"]))
        return cls(**options)

    def changed(self) -> JsonObject:
        """Give the options that differ from the defaults and change what comes out."""
        plain = type(self)()
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            name: value
            for name, value in found.items()
            if value != getattr(plain, name) and name not in ("force", "fetch")
        }

    @property
    def plan(self) -> SplitPlan:
        """How rows are held out."""
        return SplitPlan(
            split=self.split,
            folds=self.folds,
            repeats=1 if self.repeats is None else self.repeats,
            nested=bool(self.nested),
            seed=self.seed,
            groups=self.groups,
            fit_on=self.fit_on,
        )

    @property
    def wanted(self) -> DecisionTarget:
        """The target of decisions."""
        return DecisionTarget.of(self.precision_at, self.cost, self.abstain, self.confidence)

    @property
    def promises(self) -> bool:
        """True if thresholds or sets are asked for, which test rows of their own measure."""
        return bool(self.wanted) or self.sets is not None

    @property
    def columns(self) -> Columns:
        """Which columns play which part."""
        split = self.plan.split
        named = None if split == "auto" else str(split)
        return Columns(self.tap, self.label, self.groups, self.weights_column, named)


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(FitOptions)


def usable_samples(cache: Cache, head: Head, options: FitOptions) -> Samples:
    """Load labelled rows without those that the split leaves out, unless overruled.

    Raises
    ------
    FitError
        If the cache has no such rows.
    """
    samples = load_samples(cache, options.columns, head)
    if options.plan.split == "auto" and options.split != "auto":
        return samples.overruled()
    if samples.split is None:
        return samples
    return samples.keep(samples.split != "", "without split")


NESTED_ROWS = 2000
"""Rows below which every one of them is measured, by nested folds."""
_MANY_ROWS = 5000


def settle(options: FitOptions, head: Head, samples: Samples) -> FitOptions:
    """Fill in ``nested`` and ``repeats`` where the user left them open.

    A head that is chosen among several is measured with the choice inside: nested where rows are
    few, so that each of them counts, and by repeated splits where there are many. A split of the
    source, a share, thresholds or sets leave one split. Only the number of rows decides.

    Raises
    ------
    FitError
        If a class has too few rows to choose and to measure.
    """
    given = options.nested is not None or options.repeats is not None
    open_ = bool(head.options) and not given and samples.split is None and options.split == "auto"
    if not open_ or options.promises:
        repeats = 1 if options.repeats is None else options.repeats
        return replace(options, nested=bool(options.nested), repeats=repeats)
    if len(samples) >= NESTED_ROWS:
        repeats = 5 if len(samples) < _MANY_ROWS else 3
        return replace(options, nested=False, repeats=repeats)
    if options.fit_on == "train":
        return replace(options, nested=False, repeats=5)
    folds = min(options.folds, _rarest(samples, options.folds))
    return replace(options, nested=True, repeats=1, folds=folds)


def _rarest(samples: Samples, enough: int) -> int:
    """Count the rows of the rarest class; `enough` where rows have no single class."""
    if samples.task != "classification":
        return enough
    classes, counts = np.unique(samples.y, return_counts=True)
    if len(classes) > 1 and counts.min() < 3:
        few = [f"{c} ({n})" for c, n in zip(classes, counts, strict=True) if n < 3]
        named = ", ".join(few[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
        raise FitError(
            f"class {named} has fewer than 3 images: one to learn from, one to choose by and one "
            "to measure with; add images, or leave such classes out. Without a head, the features "
            "can still be used: featx.open_cache, or a head such as knn on them in scikit-learn"
        )
    return max(2, int(counts.min()))
