"""Where a cache meets a head: choose hyperparameters honestly, fit, measure, save."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from featx.arguments import typed
from featx.cache.cache import Cache, opened
from featx.errors import FitError
from featx.evaluation import json_ready
from featx.evaluation.slices import slice_notes
from featx.fitting.audit import FEW_PICTURES, audit_fitted
from featx.fitting.contenders import Contender, find_contenders, head_over
from featx.fitting.deciding import require_decidable
from featx.fitting.figures import FitResult, Slicing
from featx.fitting.growing import keep_sums, take_in
from featx.fitting.leaks import copies_across, guard
from featx.fitting.options import FitOptions, settle, usable_samples
from featx.fitting.probing import probe, require_protocol
from featx.fitting.promises import set_promises
from featx.fitting.publishing import (
    fit_command,
    result_of,
    update_command,
)
from featx.fitting.rare import settle_rare
from featx.fitting.saving import likeness_members, make_model, not_fetched, publish_fit
from featx.fitting.sheets import audit_for_report
from featx.fitting.streamed import measurement
from featx.fitting.update import (
    grown_model,
    head_of,
    new_rows,
    options_of,
    refit_reason,
    require_all,
)
from featx.heads import Head, get_head
from featx.model.archive import VECTORS
from featx.model.likeness import likeness_of
from featx.model.model import Model
from featx.model.modelfile import dump_head, load_model
from featx.model.references import make_references
from featx.model.rowsums import read_sums
from featx.progress import Progress, waiting
from featx.selection.checks import Warn, check_groups, warn
from featx.selection.trials import overheard, stand_in_notes
from featx.sources.addresses import fetching
from featx.targets import require_writable
from featx.typing import JsonObject


@typed
def fit(
    cache: str | os.PathLike[str] | Cache,
    head: str | Head | Any = None,
    out: str | os.PathLike[str] | None = None,
    *,
    tap: str | Sequence[str] | None = None,
    label: str | None = None,
    groups: str | None = None,
    split: str | float = "auto",
    folds: int = 5,
    repeats: int | None = None,
    nested: bool | None = None,
    fit_on: Literal["auto", "all", "train"] = "auto",
    weights_column: str | None = None,
    one_standard_error: bool = False,
    protocol: str | None = None,
    metric: Literal["accuracy", "per-class", "11-point"] | None = None,
    shots: int | Sequence[int] | None = None,
    episodes: int | None = None,
    precision_at: float | None = None,
    cost: str | None = None,
    abstain: float | None = None,
    confidence: float = 0.9,
    sets: float | None = None,
    slices: str | None = None,
    memory: Literal["auto", "stream", "ram"] = "auto",
    device: str = "cpu",
    rare: Literal["error", "drop"] = "error",
    seed: int = 0,
    report: str | os.PathLike[str] | None = None,
    update: str | os.PathLike[str] | Model | None = None,
    force: bool = False,
    fetch: bool = False,
) -> FitResult:
    """Choose a head's hyperparameters on training rows, fit it, and measure it on the others.

    Parameters
    ----------
    cache
        A file that `featx.extract` wrote, or one that is open.
    head
        ``auto`` (also when None), which lets heads compete inside the folds; a name
        (`featx.heads.HEADS`), an import path, or a scikit-learn estimator. A protocol brings its
        own.
    out
        Where to save the model, if anywhere.
    tap
        The tap, or taps, whose features are used; when None the first of the cache. All taps
        then compete for ``auto``, and are combined by a stack.
    label
        Column taken as the label.
    groups
        Column whose groups stay on one side of a split; a column called ``group`` when None.
    split
        ``auto`` (the split of the source, else a stratified quarter is held out), a column, or the
        share of test rows in (0, 1).
    folds
        Folds of the search, and outer folds when `nested`.
    repeats
        Number of splits that are measured. When None, one; for ``auto`` five, or three from 5,000
        rows on, unless it is nested.
    nested
        Measure every row by outer folds, each with a search of its own. When None, only for
        ``auto`` on fewer than 2,000 rows.
    fit_on
        Rows of the model that is kept: ``all`` of them once it was measured; ``train``, which
        leaves the test rows for `featx.evaluate`; or ``auto``: all, but for test rows that the
        source marks itself.
    weights_column
        Column with the weight of each row in fitting.
    one_standard_error
        Choose the simplest candidate within one standard error of the best.
    protocol
        Judge the features as a paper does (`featx.protocols.PROTOCOLS`) in place of fitting a head.
    metric
        Of the protocol ``kornblith``: ``accuracy``, ``per-class`` (its mean over classes) or
        ``11-point`` (average precision as in VOC 2007).
    shots, episodes
        Of the protocols ``k-shot`` and ``vissl-low-shot``: training rows of each class, and how
        often each number of them is drawn.
    precision_at
        Answer a class only above the probability that promises it this precision on new rows.
    cost
        ``FALSE_POSITIVE:FALSE_NEGATIVE``: the threshold of two classes that costs least.
    abstain
        Abstain below the probability that promises at most this share of errors among the answers.
    confidence
        Share of draws of training rows in which `precision_at`, for all classes, or `abstain` is
        kept on new rows, at least.
    sets
        Predict sets of classes too; in each class, this share of the new rows has it in its set.
    slices
        Column for each of whose values the test rows are measured, too; intervals allow for the
        number of values.
    memory
        ``auto`` reads features in blocks where they would not fit into free memory, ``stream``
        does so always, ``ram`` never; heads that stream are `featx.streaming.STREAMED`.
    device
        Where candidates of ``logreg`` are fitted: ``cpu``, ``cuda`` or ``cuda:1``; the head
        that is kept is fitted on the processor.
    rare
        What becomes of classes with too few rows for the folds and the test part: ``error`` names
        all of them, ``drop`` leaves them out and says so.
    seed
        Random seed of splits, folds and intervals.
    report
        Where to write the HTML report, if anywhere; `featx.report` makes it from a model, too.
    update
        A model, or its file, that takes in the new rows of `cache` and their classes, with the
        settings of its own fit. Ridge and LDA do so from stored sums, equal to a fit on all rows;
        other heads are fitted again, which needs all rows. The file is replaced unless `out` names
        another.
    force
        Replace files at `out` and `report` that featx did not write.
    fetch
        Fetch pictures from the addresses that the cache names, for the reference images of the
        model and for the report; without it a warning says what was left out.

    Raises
    ------
    OptionError
        If an option has a wrong type.
    FitError
        If the head cannot be fitted or measured on these rows.
    CacheError
        If the cache cannot be read, or `out` or `report` cannot be written.

    Examples
    --------
    >>> import featx
    >>> result = featx.fit("photos.h5", "svm", out="photos.featx")  # doctest: +SKIP
    >>> result.accuracy.value  # doctest: +SKIP
    0.93
    """
    own = ("cache", "head", "out", "report", "update")
    options = {name: value for name, value in locals().items() if name not in (*own, "own")}
    chosen = FitOptions.of(**options)
    if chosen.protocol is not None:
        given = {"head": head, "out": out, "report": report}
        require_protocol(chosen, {name: value is not None for name, value in given.items()})
        with opened(cache) as file:
            return probe(file, chosen)
    if update is not None:
        return _updated(cache, update, head, chosen, out, report)
    found = get_head("auto" if head is None else head)
    _ = chosen.wanted  # thresholds that exclude each other are refused before anything is read
    if out is not None:
        require_writable(Path(out), "model", getattr(cache, "path", cache), force=chosen.force)
        dump_head(found.build(chosen.seed))  # a head that cannot be saved is refused unfitted
    if report is not None:
        read = getattr(cache, "path", cache)
        require_writable(Path(report), "report", read, out, force=chosen.force)
    with opened(cache) as file:
        return fit_caches([file], found, chosen, out=out, report=report)


def _updated(
    cache: str | os.PathLike[str] | Cache,
    known: str | os.PathLike[str] | Model,
    head: object,
    options: FitOptions,
    out: str | os.PathLike[str] | None,
    report: str | os.PathLike[str] | None,
) -> FitResult:
    """Check what is asked for beside the model, and take in."""
    model = known if isinstance(known, Model) else load_model(known)
    if head is not None:
        raise FitError("an update keeps the model's own head; leave out --head")
    out = model.path if out is None else out
    read = getattr(cache, "path", cache)
    if out is not None:
        require_writable(Path(out), "model", read, force=options.force)
    if report is not None:
        require_writable(Path(report), "report", read, out, force=options.force)
    with opened(cache) as file:
        return take_rows(file, model, options, out=out, report=report)


def fit_caches(
    caches: Sequence[Cache],
    head: Head,
    options: FitOptions,
    *,
    out: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
    command: str | None = None,
    key: str = "",
    notes: Sequence[Warn] = (),
    pictures: int = FEW_PICTURES,
) -> FitResult:
    """Fit on one cache, or let several of the same images compete inside the measurement.

    Parameters
    ----------
    caches
        Open; with several, and with several taps for ``auto``, the best one is chosen as a head is.
    command
        The line of the shell that does it again; that of ``featx fit`` when None.
    key
        A digest of all that decides the fit, kept in the model so that it is not fitted twice.
    notes
        Warnings for the result.
    pictures
        How many are read at most to audit the data (`featx.fitting.audit.audit_fitted`).
    """
    start, found = time.perf_counter(), guard(find_contenders(caches, head, options), options)
    asked, rare = options.changed(), settle_rare(found, head, options)
    found, head, options = rare.contenders, rare.head, rare.options
    first = found[0].samples
    named, head = head, head_over(head, first)
    options = settle(options, head, first)
    codes = check_groups(first.groups, len(first))
    slicing = Slicing.of(options.slices, found[0].cache, first, codes)
    if options.promises:
        require_decidable(options.wanted, options.sets, first, bool(options.nested))
    plan = measurement(head, [one.samples for one in found], options, few=rare.few)
    heard: list[Warn] = [*notes]
    with Progress(plan.fits, "fit", unit="fits") as show, overheard(heard):
        plan.step = show.step
        measured = plan.run()
    measured.warnings.extend(heard)
    measured.warnings.extend(stand_in_notes(named, head, f"{len(first)} rows"))
    won = found[measured.kept.place]
    model = make_model(won.cache, won.samples, measured, options)
    model.meta["fit_options"] = asked
    if key:
        model.meta["trained_key"] = key
    shown = out is not None or report is not None
    audit = audit_fitted(won.cache, model, pictures=pictures, labels=shown)
    measured.warnings.extend(copies_across(audit, won.samples, measured))
    further: JsonObject = set_promises(model, head, found, measured, options)
    if slicing is not None:
        at, scores = measured.test, measured.scores
        slices = slicing.measure(first, at, scores, first.classes, options.seed)
        measured.warnings.extend(slice_notes(slices))
        further["slices"] = slices
    if out is not None:
        rows = won.samples.rows[measured.trained]
        with fetching(options.fetch), waiting("reading reference images"):
            model.members.update(make_references(won.cache, won.samples.tap, rows))
        model.members.update(likeness_members(won.samples, measured.trained))
        kept = keep_sums(won.samples, measured.trained, measured.kept.estimator)
        model.members.update(kept)
    if shown:
        model.meta["audit"] = audit.to_dict()
        with fetching(options.fetch), waiting("reading pictures of what the audit found"):
            model.kept["audit"] = json_ready(audit_for_report(won.cache, audit))
    if shown and not options.fetch:
        measured.warnings.extend(not_fetched(won.cache))
    result = result_of(won, measured, model, options, found)
    chosen = {**result.chosen, "memory": plan.memory}
    result = replace(result, **further, chosen=chosen, seconds=time.perf_counter() - start)
    if plan.memory["why"].startswith("free memory"):
        asked["memory"] = plan.memory["way"]  # another machine may have more, or less
    line = command or fit_command(won.cache, named.name, out, asked)
    return publish_fit(won, measured, result, options, line, out, report)


def take_rows(
    cache: Cache,
    model: Model,
    options: FitOptions,
    *,
    out: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
) -> FitResult:
    """Take the new rows of a cache into a model: from its sums, or by fitting it again.

    Raises
    ------
    FitError
        If the cache has no new row, lacks old ones that a fit needs, or says other labels.
    ModelError
        If the cache holds other features.
    """
    start = time.perf_counter()
    model.require_cache(cache)
    head, options = head_of(model), options_of(model, options)
    if why := refit_reason(model):
        require_all(model, cache, why)
        note = warn("refitted", f"{why}: it was fitted again, with its settings, on all rows")
        return fit_caches([cache], head, options, out=out, report=report, notes=[note])
    sums = read_sums(model)
    assert sums is not None
    samples = new_rows(model, cache, usable_samples(cache, head, options), sums)
    grown = take_in(model, sums, samples, options)
    won = Contender(cache, samples)
    made = grown_model(model, make_model(cache, samples, grown.measured, options), grown)
    if VECTORS in model.members:
        made.members.update(likeness_members(samples, grown.measured.trained, likeness_of(model)))
    result = replace(
        result_of(won, grown.measured, made, options, [won]),
        classes=grown.classes,
        n_train=grown.n_train,
        trained_on=made.meta["n_train"],
        measured_by=grown.measured_by,
        seconds=time.perf_counter() - start,
    )
    line = update_command(cache, model, out)
    return publish_fit(won, grown.measured, result, options, line, out, report)
