"""How well labels agree with predictions of heads that had not seen their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from featx.auditing import LabelIssues, label_issues
from featx.cache.cache import Cache
from featx.errors import FitError
from featx.fitting.columns import load_samples
from featx.fitting.measuring import Measurement
from featx.fitting.options import FitOptions
from featx.fitting.samples import Samples
from featx.fitting.streamed import measurement
from featx.heads import LARGE_ROWS, Head, get_head, over_taps
from featx.labels import look_like_measurements
from featx.model.thresholds import Scores
from featx.progress import Progress
from featx.selection.checks import Warn, check_groups, warn
from featx.selection.trials import overheard

_STRENGTHS = (3e-4, 3e-3, 3e-2, 0.3)


@dataclass(frozen=True)
class Judgement:
    """The labelled rows of a cache, and predictions of heads that had not seen them.

    Parameters
    ----------
    samples
        The rows that are judged.
    plan
        Fits and measures; None where nothing could be fitted.
    scores
        Prediction for each row by a head that had not seen it.
    issues
        The suspected labels; None where they cannot be told.
    warnings
        Rows that were left out, and why.
    """

    samples: Samples
    plan: Measurement | None = None
    scores: Scores | None = None
    issues: LabelIssues | None = None
    warnings: list[Warn] = field(default_factory=list)


def judge_labels(
    cache: Cache,
    head: str,
    options: FitOptions,
    labels: Sequence[object],
    *,
    progress: bool = True,
) -> Judgement:
    """Predict every labelled row by a head that was fitted without it, and compare the labels.

    All rows count, whatever part of a split the source puts them in.

    Parameters
    ----------
    labels
        Label of each row: numbers need another head than names.

    Raises
    ------
    FitError
        If the cache lacks labels, or the head cannot give probabilities.
    """
    known = [str(label) for label in labels if label is not None]
    if look_like_measurements(known) and get_head(head).task != "regression":
        head = "ridge-reg"
    chosen = _ranking(head)
    samples = load_samples(cache, options.columns, chosen).overruled()
    notes: list[Warn] = []
    try:
        samples, few = _frequent(samples, options.folds, notes)
        if samples.task == "classification" and len(np.unique(samples.y)) < 2:
            return Judgement(samples, warnings=notes)
        plan = measurement(over_taps(chosen, samples.widths), samples, options, few=few)
        fits = options.folds * plan.fits_of_search
        with (
            Progress(fits, "looking for label errors", unit="fits", show=progress) as show,
            overheard(notes),
        ):
            plan.step = show.step
            proper = chosen.name == "logreg" and samples.task == "classification"
            scores = plan.held_out("neg_log_loss" if proper else None, LARGE_ROWS)
    except FitError as error:
        notes.append(warn("no-label-check", f"label errors were not looked for: {error}"))
        return Judgement(samples, warnings=notes)
    given = scores.predicted if samples.task == "regression" else scores.probabilities
    if given is None:
        raise FitError(f"head {head} gives no probabilities; use logreg or svm")
    issues = label_issues(samples.y, given, samples.classes, task=samples.task)
    return Judgement(samples, plan, scores, issues, notes)


def _ranking(name: str) -> Head:
    """Give the head; logistic regression also on signed powers, which rank labels better."""
    head = get_head(name)
    if head.name != "logreg":
        return head
    return head.with_grid({"clf__C": _STRENGTHS}).with_preparation(("standard", "signed-power"))


def _frequent(samples: Samples, folds: int, notes: list[Warn]) -> tuple[Samples, bool]:
    """Leave out classes that are too small for the folds, and say so.

    Returns
    -------
    samples : of the other classes
    few : whether all classes are so small that there have to be fewer folds
    """
    if samples.task != "classification":
        return samples, False
    codes = check_groups(samples.groups, len(samples))
    names = np.unique(samples.y)
    if codes is None:
        sizes = np.array([np.count_nonzero(samples.y == name) for name in names])
        enough = sizes - -(-sizes // folds) >= folds
    else:
        sizes = np.array([len(np.unique(codes[samples.y == name])) for name in names])
        enough = sizes > 2
    few = bool(enough.sum() < 2)
    rare = names[sizes < 2] if few else names[~enough]
    if not len(rare):
        return samples, few
    shown = ", ".join(rare[:5]) + (f" and {len(rare) - 5} more" if len(rare) > 5 else "")
    of = "rows" if codes is None else "groups"
    text = f"classes with too few {of} are not checked for label errors: {shown}"
    notes.append(warn("small-classes", text))
    return samples.keep(~np.isin(samples.y, rare), "in a class that is too small"), few
