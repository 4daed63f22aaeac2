"""Promises about new rows: chosen on held-out predictions, measured on test rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featx.errors import FitError
from featx.evaluation.conformal import coverage_of, rows_for, set_cuts
from featx.fitting.contenders import Contender
from featx.fitting.deciding import HeldOutPredictions, choose, held_out
from featx.fitting.measuring import MeasuredHead
from featx.fitting.options import FitOptions
from featx.heads import Head, option_of
from featx.model.model import Model
from featx.model.thresholds import worth
from featx.progress import waiting
from featx.selection import SearchResult
from featx.selection.checks import Warn, check_groups, warn
from featx.typing import JsonObject


def set_promises(
    model: Model, head: Head, found: list[Contender], measured: MeasuredHead, options: FitOptions
) -> dict[str, JsonObject]:
    """Choose the thresholds and sets that are asked for, and measure how they are chosen.

    Returns
    -------
    chosen : ``decisions`` and ``sets``, those that are asked for
    """
    chosen = {}
    if options.wanted:
        with waiting("choosing thresholds"):
            chosen["decisions"] = set_thresholds(model, head, found, measured, options)
    if options.sets is not None:
        with waiting("choosing sets"):
            chosen["sets"] = set_sets(model, head, found, measured, options)
    return chosen


def set_thresholds(
    model: Model, head: Head, found: list[Contender], measured: MeasuredHead, options: FitOptions
) -> JsonObject:
    """Choose thresholds for the head that is kept, and measure how they are chosen.

    The test rows measure a rule that was chosen without them; the rule that is kept was chosen in
    the same way, on all rows that the kept head saw.
    """
    kept = measured.kept
    bars, notes = _thresholds(head, found, kept, measured.trained, options, must=True)
    model.meta["thresholds"] = bars
    measured.warnings.extend(notes)
    tested = bars
    if kept is not measured.found:
        tested, _ = _thresholds(head, found, measured.found, measured.train, options, must=False)
    samples = found[measured.found.place].samples
    codes = check_groups(samples.groups, len(samples))
    groups = None if codes is None else codes[measured.test]
    y = samples.y[measured.test]
    test = worth(tested, samples.classes, y, measured.scores, groups)
    return {**bars, "test": test}


def set_sets(
    model: Model, head: Head, found: list[Contender], measured: MeasuredHead, options: FitOptions
) -> JsonObject:
    """Choose conformal sets for the head that is kept, and measure how they are chosen."""
    assert options.sets is not None
    kept, classes = measured.kept, found[0].samples.classes
    held = _held(head, found, kept, measured.trained, options)
    cuts = set_cuts(held.y, held.probabilities, classes, options.sets)
    told = {
        "coverage": options.sets,
        "classes": cuts,
        "chosen_on": f"out-of-fold predictions of {len(held.y)} training rows",
    }
    model.meta["sets"] = told
    few = [name for name, cut in cuts.items() if cut is None]
    if few:
        least = rows_for(options.sets)
        text = f"{', '.join(few)} is in every set: a cut takes {least} rows of a class"
        measured.warnings.append(warn("sets-few-rows", text))
    if kept is not measured.found:
        held = _held(head, found, measured.found, measured.train, options)
        try:
            cuts = set_cuts(held.y, held.probabilities, classes, options.sets)
        except FitError:
            cuts = dict.fromkeys(classes)
    y = found[measured.found.place].samples.y[measured.test]
    assert measured.scores.probabilities is not None  # as the kept head has them
    return {**told, "test": coverage_of(cuts, classes, y, measured.scores.probabilities)}


def _thresholds(
    head: Head,
    found: list[Contender],
    searched: SearchResult,
    rows: NDArray[np.intp],
    options: FitOptions,
    must: bool,
) -> tuple[JsonObject, list[Warn]]:
    samples = found[searched.place].samples
    return choose(options.wanted, _held(head, found, searched, rows, options), samples, must)


def _held(
    head: Head,
    found: list[Contender],
    searched: SearchResult,
    rows: NDArray[np.intp],
    options: FitOptions,
) -> HeldOutPredictions:
    one, samples = option_of(head, searched.head), found[searched.place].samples
    return held_out(one, searched, samples, rows, options.folds, options.seed)
