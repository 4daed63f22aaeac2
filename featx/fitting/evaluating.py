"""Measure a model on the rows of a cache that it never saw."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from featx.arguments import typed
from featx.cache.cache import Cache, opened
from featx.errors import ModelError
from featx.evaluation import baseline, intervals_of, json_ready
from featx.evaluation import evaluate as measure
from featx.evaluation.conformal import coverage_of
from featx.evaluation.slices import slice_notes
from featx.fitting.columns import Columns, load_samples
from featx.fitting.figures import Measures, Slicing, worse_notes
from featx.fitting.leaks import CODE, SEEN, barred_rows, refuse_seen, seen_note
from featx.fitting.samples import Samples, require_seed
from featx.heads import HEADS, Head
from featx.model import Model
from featx.model.modelfile import load_model
from featx.model.thresholds import joined, worth
from featx.selection.checks import Warn, check_groups, warn
from featx.typing import JsonObject

_BATCH = 8192


@dataclass(frozen=True, repr=False)
class Evaluation(Measures):
    """Metrics of a model on rows it never saw; `to_dict` is the JSON of ``featx evaluate``.

    Each metric of `test` is an attribute too, as in `featx.fitting.figures.FitResult`.

    Parameters
    ----------
    test, baseline, warnings
        As in `featx.fitting.figures.FitResult`.
    excluded
        Why rows were left out, and how many: without label, seen in training, of a class that the
        model does not know.
    decisions, sets
        The model's thresholds and conformal sets, and what they are worth on these rows.
    slices
        As in `featx.fitting.figures.FitResult`.
    """

    head: str
    chosen: JsonObject
    test: JsonObject
    baseline: JsonObject
    warnings: list[Warn]
    n_train: int
    n_test: int
    classes: list[str]
    confusion: list[list[int]]
    per_class: JsonObject
    excluded: dict[str, int]
    model: str | None
    cache: str
    fingerprint: str
    tap: str
    decisions: JsonObject = field(default_factory=dict)
    sets: JsonObject = field(default_factory=dict)
    slices: JsonObject = field(default_factory=dict)

    def to_dict(self) -> JsonObject:
        """JSON-ready values."""
        ready: JsonObject = json_ready(asdict(self))
        return ready


@typed
def evaluate(
    model: Model | str | os.PathLike[str],
    cache: Cache | str | os.PathLike[str],
    *,
    groups: str | None = None,
    slices: str | None = None,
    seed: int = 0,
) -> Evaluation:
    """Measure a model on the labelled rows of a cache that it was not trained on.

    Parameters
    ----------
    model
        A model, or its file.
    cache
        An open cache, or its file; of the model's fingerprint.
    groups
        Column whose groups the intervals resample whole.
    slices
        Column for each of whose values the rows are measured, too; intervals allow for the number
        of values.
    seed
        Random seed of the intervals.

    Raises
    ------
    ModelError
        If the cache holds other features (each field that differs is named), or no row is new.
    FitError
        If there are no labels.

    Examples
    --------
    >>> featx.evaluate("cells.featx", "new.h5").accuracy.value  # doctest: +SKIP
    0.91
    """
    require_seed(seed)
    chosen = model if isinstance(model, Model) else load_model(model)
    with opened(cache) as file:
        chosen.require_cache(file)
        columns = Columns(tap=chosen.tap, label=chosen.meta.get("label"), groups=groups)
        samples = load_samples(file, columns, _head(chosen))
        samples = _unseen(chosen, samples, by_name=file.has_own_ids)
        parts = [
            chosen.score(samples.take(np.arange(k, min(k + _BATCH, len(samples)))))
            for k in range(0, len(samples), _BATCH)
        ]
        scores = joined(parts)
        codes = check_groups(samples.groups, len(samples)) if _several(samples) else None
        metrics = measure(
            samples.y,
            scores.predicted,
            probabilities=scores.probabilities,
            classes=chosen.classes or None,
            task=chosen.task,
            seed=seed,
            groups=codes,
        )
        slicing = Slicing.of(slices, file, samples, codes)
        known = constant_answer(chosen, samples.y, codes)
        found = _result(chosen, file, samples, metrics, known)
        bars, sets = chosen.thresholds, chosen.sets
        if bars:
            test = worth(bars, chosen.classes, samples.y, scores, codes)
            found = replace(found, decisions={**bars, "test": test})
        if sets and scores.probabilities is not None:
            held = coverage_of(sets["classes"], chosen.classes, samples.y, scores.probabilities)
            found = replace(found, sets={**sets, "test": held})
        if slicing is None:
            return found
        every = np.arange(len(samples))
        of_slices = slicing.measure(samples, every, scores, chosen.classes, seed)
        notes = [*found.warnings, *slice_notes(of_slices)]
        return replace(found, slices=of_slices, warnings=notes)


def constant_answer(model: Model, y: Any, groups: Any) -> JsonObject:
    """Measure what the model's training rows would answer to everything."""
    counts = model.meta.get("class_counts")
    if counts is None:  # another task, or a model of an older version
        return baseline([model.meta["typical"]], y, task=model.task, groups=groups, shares=False)
    return baseline(np.repeat(model.classes, counts), y, task=model.task, groups=groups)


def _several(samples: Samples) -> bool:
    return samples.groups is not None and len(np.unique(samples.groups.astype(str))) > 1


def _head(model: Model) -> Head:
    task = "regression" if model.task == "regression" else "classification"
    name, any_head = model.meta["head"], next(h for h in HEADS.values() if h.task == task)
    return HEADS.get(name, any_head)


def _unseen(model: Model, samples: Samples, *, by_name: bool) -> Samples:
    """Leave out rows that the model learnt from, and those of a class that it cannot name."""
    barred = barred_rows(samples)
    if barred.any():
        samples = samples.keep(~barred, SEEN)
        if not len(samples):
            raise refuse_seen(len(barred))
        note = seen_note(int(barred.sum()), len(barred), "they are left out")
        samples = replace(samples, notes=(*samples.notes, note))
    known = model.saw(samples.ids.tolist(), samples.digests, by_name=by_name)
    found = samples.keep(~known, "seen in training")
    if not len(found):
        raise ModelError(
            f"{model.name} was trained on every labelled row of the cache (by name or by content), "
            f"so none is left to measure on{_measured_before(model)}; evaluate it on other "
            "images, or fit with --fit-on train, which leaves test rows out of the model"
        )
    if model.task == "multilabel":
        return _same_columns(found, model)
    if samples.task == "multilabel":
        raise ModelError(f"{model.name} says one label a row, and the cache has several")
    if model.classes:
        found = found.keep(np.isin(found.y, model.classes), "of unknown class")
    if not len(found):
        raise ModelError(
            f"no row has a class of {model.name} ({', '.join(model.classes[:5])}...); the cache "
            f"has {', '.join(samples.classes[:5])}..."
        )
    return found


def _measured_before(model: Model) -> str:
    """Repeat the figure of the fit, which was measured on rows that its heads had not seen."""
    figures = model.figures
    accuracy = figures.get("test", {}).get("accuracy", {}).get("value")
    if accuracy is None or "measured_by" not in figures:
        return ""
    return f" (its fit measured accuracy {accuracy:.4f} by {figures['measured_by']})"


def _same_columns(samples: Samples, model: Model) -> Samples:
    """Put the columns of several labels into the model's order; those it cannot name are left."""
    if samples.task != "multilabel":
        raise ModelError(f"{model.name} says several labels a row, and the cache has one a row")
    column = {name: k for k, name in enumerate(samples.names)}
    y = np.zeros((len(samples), len(model.classes)), dtype=np.int8)
    for k, name in enumerate(model.classes):
        if name in column:
            y[:, k] = samples.y[:, column[name]]
    return replace(samples, y=y, names=tuple(model.classes))


def _result(
    model: Model, cache: Cache, samples: Samples, metrics: JsonObject, known: dict[str, Any]
) -> Evaluation:
    notes = [note for note in samples.notes if note["code"] == CODE]
    if unknown := samples.excluded.get("of unknown class"):
        text = f"{unknown} rows have a class that the model does not know, and are left out"
        notes.append(warn("unknown-classes", text))
    if len(samples) < 30:
        notes.append(
            warn("few-test-rows", f"{len(samples)} test rows leave every figure uncertain")
        )
    test = intervals_of(metrics)
    return Evaluation(
        head=str(model.meta["head"]),
        chosen=dict(model.figures.get("chosen", {})),
        test=test,
        baseline=known,
        warnings=[*notes, *worse_notes(test, known)],
        n_train=int(model.meta["n_train"]),
        n_test=len(samples),
        classes=model.classes,
        confusion=metrics.get("confusion", []),
        per_class=metrics.get("per_class", {}),
        excluded=samples.excluded,
        model=None if model.path is None else str(model.path),
        cache=str(cache.path),
        fingerprint=cache.fingerprint,
        tap=model.tap,
    )
