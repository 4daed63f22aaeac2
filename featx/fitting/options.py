"""What `featx.fit` is asked for, and what it found."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Literal, get_type_hints

from featx.arguments import require_types
from featx.cache.reader import Cache
from featx.errors import FitError
from featx.evaluation import json_ready
from featx.fitting.columns import Columns, load_samples
from featx.fitting.deciding import Wanted
from featx.fitting.measures import Measures
from featx.fitting.samples import Samples, require_seed
from featx.heads import Head
from featx.model import Model
from featx.selection import SplitPlan


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
        How many splits are measured; when None one, or for ``auto`` as `featx.fitting.procedure`
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
        if self.sets is not None and not 0 < self.sets < 1:
            raise FitError(f"--sets is {self.sets:g}; expected a share in (0, 1), as 0.9")

    @classmethod
    def of(cls, **options: Any) -> FitOptions:
        """Build from keyword arguments as `featx.fit` takes them: several taps become ``a,b``."""
        tap = options.get("tap")
        if tap is not None and not isinstance(tap, str):
            options["tap"] = ",".join(tap) or None
        return cls(**options)

    def changed(self) -> dict[str, Any]:
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
    def wanted(self) -> Wanted:
        """What decisions shall be worth."""
        return Wanted.of(self.precision_at, self.cost, self.abstain, self.confidence)

    @property
    def promises(self) -> bool:
        """Whether thresholds or sets are asked for, which test rows of their own measure."""
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


@dataclass(frozen=True, repr=False)
class FitResult(Measures):
    """A fitted head and what it is worth; `to_dict` is the JSON of ``featx fit --json``.

    Each metric of `test` is an attribute too, ``result.accuracy.value``, and the result shows the
    table of the shell.

    Parameters
    ----------
    head
        Its name; of several that competed, that of the winner.
    head_options
        Each head that competed, on each tap or cache: its score on the folds of the search on all
        rows, and how many of the measured searches it won (``won``). Empty where none competed.
    chosen
        Parameters, score in the search, and how they were chosen.
    test
        Metrics on rows that nothing saw, each ``{"value", "low", "high"}``: a 95 % bootstrap
        interval; with repeats the mean over them and the corrected resampled t interval of Nadeau
        and Bengio (2003).
    baseline
        The same of the majority class, or of the mean.
    warnings
        ``{"code", "message"}`` each.
    n_train, n_test
        Rows that a measured head saw, and rows that measured one.
    measured_by
        How rows were held out, in words.
    trained_on
        Rows that the model saw: after the measurement it is fitted on all of them (`fit_on`).
        Zero where a protocol took the place of a head.
    test_ids
        Rows behind the figures, in the order of the cache; each was predicted by a head that had
        not seen it.
    model
        Ready to predict; saved where `path` says. Reference images are added where it is saved.
        None where a protocol took the place of a head.
    decisions
        Thresholds, how they were chosen, and what they are worth on the test rows.
    sets
        The same of conformal sets.
    slices
        Metrics of each value of a column; see `featx.evaluation.slices.by_slice`.
    """

    head: str
    chosen: dict[str, Any]
    test: dict[str, Any]
    baseline: dict[str, Any]
    warnings: list[dict[str, str]]
    n_train: int
    n_test: int
    cv: dict[str, Any]
    classes: list[str]
    confusion: list[list[int]]
    per_class: dict[str, Any]
    cache: str
    fingerprint: str
    tap: str
    excluded: dict[str, int]
    measured_by: str
    trained_on: int
    test_ids: list[str]
    seconds: float
    path: str | None = None
    decisions: dict[str, Any] = field(default_factory=dict)
    sets: dict[str, Any] = field(default_factory=dict)
    slices: dict[str, Any] = field(default_factory=dict)
    head_options: list[dict[str, Any]] = field(default_factory=list)
    model: Model | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; ``model`` is the file."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "model"}
        ready: dict[str, Any] = json_ready(found | {"model": found.pop("path")})
        return ready


def usable_samples(cache: Cache, head: Head, options: FitOptions) -> Samples:
    """Load labelled rows, without those that the split gives no part; an overruled one is no split.

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
