"""A leaderboard: caches x taps x heads, measured on the same outer folds."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from featx.arguments import several, typed
from featx.cache.cache import Cache, opened
from featx.errors import FitError
from featx.evaluation import baseline, evaluate
from featx.files import write_bytes
from featx.fitting.columns import Columns, load_samples
from featx.fitting.leaderboard import Comparison, Entry, choose_cut, draw_leaderboard, pareto_front
from featx.fitting.leaks import SEEN, barred_rows, refuse_seen, seen_note
from featx.fitting.options import FitOptions
from featx.fitting.samples import Samples
from featx.fitting.streamed import blocks_of, measurement
from featx.fitting.transferability import logme
from featx.heads import Head, get_head
from featx.preprocess import Preprocess
from featx.progress import Progress
from featx.selection import make_folds
from featx.selection.checks import Warn, check_groups
from featx.selection.splits import Folds, Rows
from featx.selection.sweep import fits_of
from featx.selection.trials import overheard
from featx.targets import require_png, require_writable
from featx.typing import JsonObject, RowValues


@dataclass(frozen=True)
class _Line:
    """Measurements of one cache, tap and head: scores of each search, and held-out answers."""

    entry: Entry
    inner: list[float]
    predicted: RowValues


@typed
def compare(
    caches: str | os.PathLike[str] | Cache | Sequence[str | os.PathLike[str] | Cache],
    heads: str | Head | Any | Sequence[str | Head | Any] = ("svm", "logreg"),
    *,
    out: str | os.PathLike[str] | None = None,
    plot: str | os.PathLike[str] | None = None,
    label: str | None = None,
    groups: str | None = None,
    folds: int = 5,
    seed: int = 0,
    memory: Literal["auto", "stream", "ram"] = "auto",
    tune: bool = False,
    force: bool = False,
) -> Comparison:
    """Measure every tap of every cache with every head, on the same rows and folds.

    Parameters
    ----------
    caches
        One cache or several of the same images; rows that not all of them have are left out.
    heads
        One head or several: names, or estimators.
    out
        A CSV file for the table.
    plot
        A PNG file: the score of each line against what it costs.
    label, groups
        As in `featx.fitting.options.FitOptions`; the manifest's split plays no part.
    folds
        Outer folds, and folds of each search.
    seed
        Random seed of folds and intervals.
    memory
        As in `featx.fitting.options.FitOptions`, for each line.
    tune
        Say where to cut the network for `featx.tune`: each line gets the share of multiply-adds
        above its layer and the size of its map, and ``cut`` names the layer.
    force
        Replace files at `out` and `plot` that featx did not write.

    Raises
    ------
    FitError
        If the caches share no labelled row, or disagree about a label.

    Examples
    --------
    >>> found = featx.compare(["resnet18.h5", "lite0.h5"], heads=["svm"])  # doctest: +SKIP
    >>> found.rows[0].tap, found.selected["score"]["value"]  # doctest: +SKIP
    ('avgpool', 0.91)
    """
    caches, heads = several(caches), several(heads)
    if not caches or not heads:
        raise FitError("there is nothing to compare; name a cache and a head at least")
    options = FitOptions(label=label, groups=groups, folds=folds, seed=seed, memory=memory)
    if out is not None:
        require_writable(Path(out), "table", *caches, force=force)
    if plot is not None:
        require_png(plot, out, force=force)
    chosen = [get_head(head) for head in heads]
    shared, excluded, notes = _shared(caches, options.columns, chosen[0])
    taps = n_classes = 0
    for given in caches:
        with opened(given) as cache:
            taps += len(cache.taps)
            n_classes = n_classes or _n_classes(load_samples(cache, options.columns, chosen[0]))
    lines: list[_Line] = []
    plan: tuple[Folds, list[Warn]] | None = None
    # Folds are as many as asked for, or fewer where a class is rare.
    fits = (
        taps
        * folds
        * sum(fits_of(head, len(shared), folds, n_classes=n_classes) for head in chosen)
    )
    heard: list[Warn] = []
    with Progress(fits, "compare", unit="fits") as show, overheard(heard):
        for given in caches:
            with opened(given) as cache:
                for tap in cache.taps:
                    samples = _ordered(cache, replace(options.columns, tap=tap), chosen[0], shared)
                    if plan is None:
                        first, plan = samples, _folds(samples, folds, seed)
                    _require_same_labels(first, samples, cache)
                    lines += _lines(cache, samples, chosen, plan[0], options, show)
    assert plan is not None
    found = _comparison(first, lines, (plan[0], notes + plan[1] + heard), excluded, seed)
    found = _with_cut(found, caches) if tune else found
    if out is not None:
        write_bytes(Path(out), found.to_frame().to_csv(index=False).encode())
    if plot is not None:
        draw_leaderboard(found, plot, force=force)
    return found


def _shared(
    caches: Sequence[Any], columns: Columns, head: Head
) -> tuple[list[str], dict[str, int], list[Warn]]:
    """Names of the labelled rows that every cache has and no network saw, as the first has them."""
    names: list[list[str]] = []
    seen: set[str] = set()
    for given in caches:
        with opened(given) as cache:
            samples = load_samples(cache, columns, head)
            names.append(samples.ids.tolist())
            seen.update(samples.ids[barred_rows(samples)].tolist())
    common = set(names[0]).intersection(*names[1:])
    if not common:
        raise FitError("the caches share no labelled row; compare caches of the same images")
    left = len(set().union(*names)) - len(common)
    excluded = {"not in every cache": left} if left else {}
    if not (barred := common & seen):
        return [n for n in names[0] if n in common], excluded, []
    if not common - seen:
        raise refuse_seen(len(common))
    note = seen_note(len(barred), len(common), "they are left out, for every cache")
    excluded[SEEN] = len(barred)
    return [n for n in names[0] if n in common - seen], excluded, [note]


def _ordered(cache: Cache, columns: Columns, head: Head, names: list[str]) -> Samples:
    samples = load_samples(cache, columns, head).overruled()
    places = {name: k for k, name in enumerate(samples.ids.tolist())}
    return samples.at(np.array([places[name] for name in names]))


def _n_classes(samples: Samples) -> int:
    """Number of classes of one label a row; 2 of anything else."""
    return len(samples.classes) if samples.task == "classification" else 2


def _folds(samples: Samples, folds: int, seed: int) -> tuple[Folds, list[Warn]]:
    return make_folds(samples.y, folds=folds, groups=samples.groups, seed=seed, task=samples.task)


def _require_same_labels(first: Samples, other: Samples, cache: Cache) -> None:
    if first.names != other.names:
        raise FitError(f"{cache.path} has other labels than the first cache; compare the same ones")
    differ = (first.y != other.y).reshape(len(first), -1).any(axis=1)
    if differ.any():
        k = int(differ.argmax())
        raise FitError(
            f"{cache.path} calls {first.ids[k]!r} {str(other.y[k])!r}, and the first cache "
            f"{str(first.y[k])!r}; compare caches with the same labels"
        )


def _lines(
    cache: Cache,
    samples: Samples,
    heads: list[Head],
    folds: Folds,
    options: FitOptions,
    show: Progress,
) -> list[_Line]:
    options = replace(options, folds=len(folds))
    # Rows are read as they lie in the file; folds are those of the order that all caches share.
    order = np.argsort(samples.rows, kind="stable")
    place, lying = np.argsort(order), samples.at(order)
    parts = [(np.sort(place[train]), np.sort(place[test])) for train, test in folds]
    inner = [_inner(samples, train, place, options) for train, _ in folds]
    measurements = [measurement(head, lying, options) for head in heads]
    transfer = logme(blocks_of(lying, np.arange(len(lying))), lying.y)
    found = []
    for measured in measurements:
        start, said, scores = time.perf_counter(), samples.y.copy(), []
        for (train, test), chosen_on in zip(parts, inner, strict=True):
            before, measured.step = show.done, show.step
            result = measured.search(train, options.seed, chosen_on)
            n = fits_of(measured.head, len(train), len(folds), n_classes=_n_classes(samples))
            show.update(before + n)
            scores.append(result.best_score)
            said[order[test]] = measured.score(result, test).predicted
        seconds = (time.perf_counter() - start) / len(folds)
        entry = Entry(
            cache=str(cache.path),
            backbone=cache.spec.architecture,
            tap=samples.tap,
            head=measured.head.name,
            n_features=samples.n_features,
            score=_measure(samples, said, options.seed)[_metric(samples)],
            logme=transfer,
            fit_seconds=seconds,
            bytes_per_image=samples.n_features * np.dtype(cache.spec.dtype).itemsize,
            ms_per_image=_milliseconds(cache),
        )
        found.append(_Line(entry, scores, said))
    return found


def _inner(samples: Samples, train: Rows, place: Rows, options: FitOptions) -> Folds:
    """Folds of some rows, as positions among them once they stand in the order of the file."""
    among, _ = _folds(samples.at(train), options.folds, options.seed)
    rank = np.argsort(np.argsort(place[train]))
    return [(np.sort(rank[a]), np.sort(rank[b])) for a, b in among]


def _metric(samples: Samples) -> str:
    return "r2" if samples.task == "regression" else "accuracy"


def _measure(samples: Samples, predicted: RowValues, seed: int) -> JsonObject:
    return evaluate(
        samples.y,
        predicted,
        classes=samples.classes or None,
        task=samples.task,
        seed=seed,
        groups=check_groups(samples.groups, len(samples)),
    )


def _milliseconds(cache: Cache) -> float | None:
    embedded = cache.provenance.get("embedded", 0)
    seconds = cache.provenance.get("seconds", {}).get("run")
    return 1000 * float(seconds) / embedded if embedded and seconds else None


def _comparison(
    samples: Samples,
    lines: list[_Line],
    plan: tuple[Folds, list[Warn]],
    excluded: dict[str, int],
    seed: int,
) -> Comparison:
    folds, notes = plan
    best = [int(np.argmax([line.inner[k] for line in lines])) for k in range(len(folds))]
    predicted = samples.y.copy()
    for i, (_, test) in zip(best, folds, strict=True):
        predicted[test] = lines[i].predicted[test]
    how_often = Counter(_name(lines[i].entry) for i in best)
    metric = _metric(samples)
    known = baseline(samples.y, samples.y, task=samples.task)
    entries = [line.entry for line in lines]
    front = pareto_front(entries)
    rows = [replace(e, pareto=bool(on)) for e, on in zip(entries, front, strict=True)]
    return Comparison(
        rows=sorted(rows, key=lambda row: -row.score["value"]),
        selected={
            "score": _measure(samples, predicted, seed)[metric],
            "chosen": dict(how_often.most_common()),
        },
        baseline=known,
        metric=metric,
        folds=len(folds),
        n_samples=len(samples),
        excluded=samples.excluded | excluded,
        warnings=notes,
    )


def _with_cut(found: Comparison, caches: Sequence[Any]) -> Comparison:
    """Add to each line what training the layers above its own would cost, and choose a layer."""
    from featx.backbones import load_backbone

    known: dict[tuple[str, str], tuple[str, float | None, int | None]] = {}
    for given in caches:
        with opened(given) as cache:
            network = cache.spec.architecture
            if network.startswith(("file:", "external:")) or network.endswith(".onnx"):
                raise FitError(
                    f"compare --tune: {cache.path} is of {network}, whose layers cannot be "
                    "measured; compare caches of a library's network"
                )
            pre = Preprocess.from_dict(cache.spec.preprocess)
            rows = {r.name: r for r in load_backbone(network, weights="random").describe(pre)}
            for tap in cache.spec.taps:
                row, last = rows.get(tap["layer"]), tap.get("side") == "input"
                costs = (None, None) if row is None or last else (row.above, row.map_bytes)
                known[str(cache.path), tap["name"]] = (tap["layer"], *costs)
    found_rows, layers = [], []
    for entry in found.rows:
        layer, above, map_bytes = known[entry.cache, entry.tap]
        found_rows.append(replace(entry, above=above, map_bytes=map_bytes))
        layers.append(layer)
    return choose_cut(replace(found, rows=found_rows), layers)


def _name(entry: Entry) -> str:
    return f"{Path(entry.cache).name} {entry.tap} {entry.head}"
