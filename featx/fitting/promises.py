"""Promises about new rows: chosen on held-out predictions, measured on test rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.fitting.contenders import Contender
from featx.fitting.crossfit import held_out
from featx.fitting.deciding import choose
from featx.fitting.measuring import Measured
from featx.fitting.options import FitOptions
from featx.heads import Head, option_of
from featx.model.model import Model
from featx.model.thresholds import worth
from featx.selection import SearchResult
from featx.selection.checks import Warn, check_groups


def set_thresholds(
    model: Model, head: Head, found: list[Contender], measured: Measured, options: FitOptions
) -> dict[str, Any]:
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


def _thresholds(
    head: Head,
    found: list[Contender],
    searched: SearchResult,
    rows: NDArray[np.intp],
    options: FitOptions,
    must: bool,
) -> tuple[dict[str, Any], list[Warn]]:
    one, samples = option_of(head, searched.head), found[searched.place].samples
    scores = held_out(one, searched, samples, rows, options.folds, options.seed)
    return choose(options.wanted, scores, samples, must)
