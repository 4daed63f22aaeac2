"""The report of a fit: what a model keeps for it, and making it again."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featx.arguments import typed
from featx.cache.cache import Cache, open_cache
from featx.errors import FitError, ModelError
from featx.evaluation import intervals_of, json_ready
from featx.fitting.contenders import Contender
from featx.fitting.figures import FitResult, worse_notes
from featx.fitting.looks import maps_of, small_pictures
from featx.fitting.measuring import MeasuredHead
from featx.fitting.options import FitOptions
from featx.fitting.samples import Samples
from featx.model import Model
from featx.model.archive import REPORT
from featx.model.likeness import cache_beside
from featx.model.modelfile import load_model
from featx.progress import Progress
from featx.reporting import (
    FeatureMap,
    ReportData,
    RowSet,
    choose_points,
    fits_of_curve,
    learning_curve,
    least_certain,
    project,
    worst_mistakes,
    write_report,
)
from featx.reporting.data import labels_text
from featx.reporting.pictures import GALLERY_SIDE, MOST_PICTURES, SMALL_SIDE
from featx.selection import SplitPlan, make_split
from featx.selection.sweep import Step
from featx.slices import SliceRecord
from featx.targets import require_writable
from featx.typing import JsonObject, RowValues

if TYPE_CHECKING:
    from featx.explaining import Explainer

_N_MAP = 400
_MOST_TRAIN, _MOST_TEST = 20_000, 10_000
"""Rows that a learning curve reads at most."""

Rows = NDArray[np.intp]


@typed
def report(
    model: Model | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    maps: bool = False,
    weights: str | os.PathLike[str] | None = None,
    backbone: str | None = None,
    force: bool = False,
) -> Path:
    """Write the report of a model as one self-contained HTML page.

    Parameters
    ----------
    model
        A model, or its file. Cache and images are not needed any more, but for `maps`.
    out
        Where the page goes; beside the model when None.
    maps
        Show under the worst mistakes where each wrong answer comes from. The network runs for it.
    weights, backbone
        Where the file of the weights, or the code of the network, lies now; for `maps`.
    force
        Replace a page that featx did not write.

    Returns
    -------
    path : of the page

    Raises
    ------
    ModelError
        If the model is damaged, keeps no test rows, or has no cache beside it for `maps`.
    CacheError
        If the page cannot be written.

    Examples
    --------
    >>> featx.report("cells.featx", "cells.html")  # doctest: +SKIP
    """
    chosen = model if isinstance(model, Model) else load_model(model)
    if out is None and chosen.path is None:
        raise ModelError("the model was never saved, so say where its report goes: out=...")
    place = Path(out) if out is not None else Path(str(chosen.path)).with_suffix(".html")
    require_writable(place, "report", chosen.path, force=force)
    data = report_data(chosen)
    if maps:
        from featx.explaining import Explainer

        explain = Explainer(chosen, weights=weights, backbone=backbone)
        data = replace(data, maps=_mistake_maps(chosen, data, explain))
    return write_report(place, data)


def _mistake_maps(model: Model, data: ReportData, explain: Explainer) -> dict[str, bytes]:
    """Draw the maps of the worst mistakes, for what was said of each."""
    place = cache_beside(model)
    if place is None:
        named = Path(str(model.meta.get("cache") or "")).name
        raise ModelError(f"maps need the cache of the training ({named}); put it beside the model")
    worst = worst_mistakes(data.y_true, data.y_pred, data.probabilities).tolist()
    single = data.task == "classification"
    labels = {data.ids[row]: str(data.y_pred[row]) if single else None for row in worst}
    with open_cache(place) as cache:
        return maps_of(cache, explain, labels, GALLERY_SIDE)


def report_data(model: Model) -> ReportData:
    """Gather a report from what a model keeps.

    Raises
    ------
    ModelError
        If it keeps no test rows, or what it keeps does not fit together.
    """
    tested = model.tested
    if not tested.get("ids") or not model.figures:
        raise ModelError(f"{model.name} keeps no test rows to report on; fit it again")
    try:
        return ReportData.from_dict(
            {
                **model.kept,
                "figures": model.figures,
                "ids": tested["ids"],
                "y_true": tested["y"],
                "y_pred": tested["predicted"],
                "probabilities": tested.get("probabilities"),
                "task": model.task,
                "spec": json.loads(model.spec.to_json()),
                "created": model.meta.get("created", ""),
            }
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{model.name} is damaged: {REPORT} does not fit ({error})") from None


def keep_for_report(
    cache: Cache,
    samples: Samples,
    measured: MeasuredHead,
    command: str,
    seed: int = 0,
    method: str = "pca",
) -> JsonObject:
    """Gather, for `Model.kept`, what `report` needs when cache and images are gone.

    Parameters
    ----------
    command
        Of the fit, as the shell takes it.
    method
        Of the map: ``pca``, or ``auto`` for UMAP where it is installed, which takes seconds.

    Returns
    -------
    kept : candidates, learning curve, map, small pictures, provenance; JSON-ready
    """
    points = choose_points(_labels(samples, samples.y[measured.test]), _N_MAP, seed)
    shown = _shown(samples, measured, points)
    with Progress(fits_of_curve() + 1 + len(shown), "report", unit="steps") as show:
        learning = _learning(samples, measured, seed, show.step)
        show.update(fits_of_curve())
        drawn = _map(samples, measured, points, method)
        show.step()
        pictures = small_pictures(cache, samples.rows[measured.test], shown, show.step)
    kept = {
        "search": measured.kept.table,
        "learning": learning,
        "points": drawn,
        "pictures": pictures,
        "paths": [str(cache.paths[row]) for row in samples.rows[measured.test]],
        "provenance": cache.provenance,
        "commands": [extract_command(cache), command],
    }
    ready: JsonObject = json_ready(kept)
    return ready


def _map(
    samples: Samples, measured: MeasuredHead, points: Rows, method: str
) -> dict[str, Any] | None:
    if len(points) < 2:
        return None
    at = measured.test[points]
    xy, name, explained = project(samples.take(at), method)
    return FeatureMap(
        ids=samples.ids[at].tolist(),
        xy=xy,
        labels=_labels(samples, samples.y[at]),
        predicted=_labels(samples, measured.scores.predicted[points]),
        method=name,
        explained=explained,
    ).to_dict()


def _labels(samples: Samples, y: RowValues) -> list[Any]:
    """One label a row: a number, a name, or the names of several as one text."""
    return [labels_text(row, samples.names) for row in y] if samples.names else list(y.tolist())


def _learning(samples: Samples, measured: MeasuredHead, seed: int, step: Step) -> JsonObject | None:
    train, test = measured.train, measured.test
    if not len(train):  # an update measures what many old rows and some new ones gave
        return None
    if len(np.intersect1d(train, test)):  # nested: the kept head saw every row
        plan = SplitPlan(seed=seed)
        parts = make_split(
            samples.y,
            groups=samples.groups,
            test_size=plan.test_size,
            seed=seed,
            task=samples.task,
        )
        train, test = parts.train, parts.test
    rng = np.random.default_rng(seed)
    train, test = rng.permutation(train)[:_MOST_TRAIN], rng.permutation(test)[:_MOST_TEST]
    try:
        return learning_curve(
            measured.kept.estimator,
            _part(samples, train),
            _part(samples, test),
            task=samples.task,
            seed=seed,
            step=step,
        )
    except FitError:
        return None  # too few rows for parts of them


def _part(samples: Samples, at: Rows) -> RowSet:
    def some(column: RowValues | None) -> NDArray[Any] | None:
        return None if column is None else column[at]

    groups = some(samples.groups)
    return RowSet(
        samples.take(at),
        samples.y[at],
        None if groups is None else groups.astype(str),
        some(samples.weights),
    )


def _shown(samples: Samples, measured: MeasuredHead, points: Rows) -> dict[int, int]:
    """Give the test rows whose pictures are shown, each with the side of its picture."""
    scores = measured.scores
    y = samples.y[measured.test]
    sides = dict.fromkeys([*points.tolist(), *range(min(len(y), MOST_PICTURES))], SMALL_SIDE)
    worst = worst_mistakes(y, scores.predicted, scores.probabilities)
    several = bool(samples.names)
    unsure = least_certain(scores.probabilities, several=several, leave_out=worst)
    large = (*worst.tolist(), *unsure.tolist())
    return sides | dict.fromkeys(large, GALLERY_SIDE)


def result_of(
    won: Contender,
    measured: MeasuredHead,
    model: Model,
    options: FitOptions,
    contenders: list[Contender],
) -> FitResult:
    """Describe a fit: what was chosen, measured and kept."""
    cache, samples = won.cache, won.samples
    metrics, found = dict(measured.metrics), measured.kept
    test = intervals_of(metrics)
    return FitResult(
        head=found.head,
        chosen=found.chosen,
        test=test,
        baseline=measured.baseline,
        warnings=[*measured.warnings, *worse_notes(test, measured.baseline)],
        n_train=len(measured.train),
        n_test=len(measured.test),
        cv={
            "score": found.best_score,
            "std": _spread(measured),
            "scoring": found.scoring,
            "folds": found.folds,
        },
        classes=samples.classes,
        confusion=metrics.get("confusion", []),
        per_class=metrics.get("per_class", {}),
        cache=str(cache.path),
        fingerprint=cache.fingerprint,
        tap=samples.tap,
        excluded=samples.excluded,
        measured_by=_how(samples, options),
        trained_on=len(measured.trained),
        test_ids=samples.ids[measured.test].tolist(),
        seconds=0.0,
        head_options=_head_options(measured, contenders),
        model=model,
    )


def _head_options(measured: MeasuredHead, contenders: list[Contender]) -> list[JsonObject]:
    """Describe each competitor, and mark the winner."""
    kept, found = measured.kept, []
    for option in kept.options:
        head, place = option["head"], option["features"]
        one = contenders[place]
        found.append(
            {
                "head": head,
                "cache": str(one.cache.path),
                "tap": one.samples.tap,
                **{name: option[name] for name in ("params", "score", "std")},
                "won": measured.won.get((head, place), 0),
                "chosen": (head, place) == (kept.head, kept.place),
            }
        )
    return found


def _spread(measured: MeasuredHead) -> float:
    chosen = measured.kept.chosen["params"]
    return next(float(row["std"]) for row in measured.kept.table if row["params"] == chosen)


def _how(samples: Samples, options: FitOptions) -> str:
    kept = ", groups kept together" if samples.groups is not None else ""
    if options.nested:
        return f"nested: {options.folds} outer folds{kept}"
    if samples.seen is not None and samples.seen.any():
        return f"rows that the network was not trained on{kept}"
    if samples.split is not None:
        return "the split of the source"
    share = f"{options.plan.test_size:.0%} of the rows held out{kept}"
    return f"{options.repeats} times {share}" if options.plan.repeats > 1 else share


def extract_command(cache: Cache) -> str:
    """Write the line of the shell that makes a cache of the same features."""
    known = cache.provenance
    words = ["featx", "extract", str(known.get("source") or "SOURCE"), str(cache.path)]
    for name, value in (known.get("options") or {}).items():
        if value in (None, [], ()) or (name, value) in _DEFAULTS:
            continue
        flag = "--layer" if name == "layers" else "--" + name.replace("_", "-")
        if name == "layers":
            words += [part for layer in value for part in (flag, str(layer))]
        elif isinstance(value, list | tuple):
            words += [flag, ",".join(map(str, value))]
        else:
            words += [flag, str(value)]
    if corrections := known.get("labels"):
        words += ["--labels", str(corrections.get("file"))]
    dealt = SliceRecord.from_dict(known.get("shard"))
    if dealt is not None and not dealt.slice_.is_whole:
        words += ["--shard", str(dealt.slice_)]
    return shlex.join(words)


_DEFAULTS = (("view_merge", "mean"), ("dtype", "float32"))


def fit_command(cache: Cache, head: str, out: Any, given: dict[str, Any]) -> str:
    """Write the line of the shell that fits the same head; `given` are the user's options."""
    words = ["featx", "fit", str(cache.path), "--head", head]
    for name, value in given.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words += [flag] if value else [] if name != "nested" else ["--no-nested"]
        elif value is not None:
            words += [flag, str(value)]
    return shlex.join([*words, *([] if out is None else ["--out", os.fspath(out)])])


def update_command(cache: Cache, model: Model, out: Any) -> str:
    """Write the line of the shell that takes the rows of a cache into a model."""
    words = ["featx", "fit", str(cache.path), "--update", str(model.path or "MODEL")]
    return shlex.join([*words, *([] if out is None else ["--out", os.fspath(out)])])
