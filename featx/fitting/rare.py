"""Labels that allow a model: classes with too few rows are named, left out, or fitted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from featx.errors import FitError, shown
from featx.fitting.contenders import Contender
from featx.fitting.options import FitOptions
from featx.fitting.samples import Samples
from featx.heads import Head, get_head
from featx.items import Manifest, Source
from featx.labels import Labels, look_like_measurements
from featx.selection import make_split
from featx.selection.checks import Warn, warn
from featx.slices import listed
from featx.sources.load import load_manifest

_SHOWN = 5  # classes that a message names
_COMPETING = 3
"""Rows of each class that heads need to compete: to learn from, to choose by, to measure with."""


@dataclass(frozen=True)
class Fewness:
    """Which classes have too few rows: name -> rows, and how many rows each needs."""

    classes: dict[str, int]
    others: int
    smallest: int
    why: str


@dataclass(frozen=True)
class RarePlan:
    """The rows to fit in view of small classes; `few` where all classes are small."""

    contenders: list[Contender]
    head: Head
    options: FitOptions
    few: bool = False


def settle_rare(found: Sequence[Contender], head: Head, options: FitOptions) -> RarePlan:
    """Leave out classes that are too small, or refuse them by name.

    Where no class is large enough, none is rare among them: they are fitted with fewer folds and a
    larger test part, which is said.

    Raises
    ------
    FitError
        Naming the first classes that are too small, unless ``rare="drop"``.
    """
    contenders, samples = list(found), found[0].samples
    fewness = _fewness(samples, head, options)
    if fewness is None:
        return RarePlan(contenders, head, options)
    if fewness.others:
        if options.rare == "drop" and fewness.others >= 2:
            return RarePlan(_without(contenders, fewness.classes), head, options)
        if len(fewness.classes) == 1 and not head.options:
            return RarePlan(contenders, head, options)  # what fails says it with its own figures
        raise _refusal(fewness)
    single = {name: n for name, n in fewness.classes.items() if n < 2}
    if not single and _too_many_folds(samples, head, options):
        return RarePlan(contenders, head, options)  # what fails says it with its own figures
    if single:
        if options.rare != "drop" or len(fewness.classes) - len(single) < 2:
            raise _refusal(replace(fewness, classes=single, why="a training and a test part"))
        return settle_rare(_without(contenders, single), head, options)
    return _with_few(contenders, head, options, fewness)


def _fewness(samples: Samples, head: Head, options: FitOptions) -> Fewness | None:
    if samples.task != "classification" or samples.groups is not None:
        return None
    if samples.split is not None:
        return None
    classes, counts = np.unique(samples.y, return_counts=True)
    if len(classes) < 2:
        return None
    rows = dict(zip(map(str, classes), counts.tolist(), strict=True))
    if head.options:
        small = {name: n for name, n in rows.items() if n < _COMPETING}
        why = f"one to learn from, one to choose by and one to measure with ({_COMPETING} rows)"
    else:
        trained = _trained(samples, options)
        small = {name: n for name, n in rows.items() if trained[name] < options.folds}
        why = f"{options.folds} folds beside a test part"
    if not small:
        return None
    return Fewness(small, len(rows) - len(small), min(small.values()), why)


def _too_many_folds(samples: Samples, head: Head, options: FitOptions) -> bool:
    """Tell whether the folds that were asked for are too many, and the classes not too small."""
    usual = replace(options, folds=min(options.folds, FitOptions.folds))
    return usual.folds < options.folds and _fewness(samples, head, usual) is None


def _trained(samples: Samples, options: FitOptions) -> dict[str, int]:
    """Rows of each class that a search would see at the least."""
    classes, counts = np.unique(samples.y, return_counts=True)
    rows = dict(zip(map(str, classes), counts.tolist(), strict=True))
    plan = options.plan
    if plan.nested:
        return {name: n - -(-n // options.folds) for name, n in rows.items()}
    known = {name for name, n in rows.items() if n >= 2}
    if len(known) < 2:
        return dict.fromkeys(rows, 0)
    try:
        y = samples.y[np.isin(samples.y, list(known))]
        split = make_split(y, test_size=plan.test_size, seed=plan.seed)
    except FitError:  # more classes than test rows
        return {name: n - -(-n // 2) for name, n in rows.items()}
    seen, there = np.unique(y[split.train], return_counts=True)
    found = dict(zip(map(str, seen), there.tolist(), strict=True))
    return {name: found.get(name, 0) for name in rows}


def _named(classes: dict[str, int]) -> str:
    """Name classes with their rows, not all of very many."""
    return listed([f"{shown(name, 60)} ({n})" for name, n in classes.items()], _SHOWN)


def _refusal(fewness: Fewness) -> FitError:
    n = len(fewness.classes)
    what = "class has" if n == 1 else "classes have"
    return FitError(
        f"{n} {what} too few rows for {fewness.why}: {_named(fewness.classes)}; add images, pass "
        "--rare drop to leave them out, or ask for fewer --folds"
    )


def _without(found: Sequence[Contender], classes: dict[str, int]) -> list[Contender]:
    text = f"{len(classes)} classes with too few rows are left out: {_named(classes)}"
    note = warn("rare-classes-dropped", text)
    kept = []
    for one in found:
        mask = ~np.isin(one.samples.y, list(classes))
        samples = one.samples.keep(mask, "rare class")
        kept.append(replace(one, samples=replace(samples, notes=(*samples.notes, note))))
    return kept


def _with_few(
    found: Sequence[Contender], head: Head, options: FitOptions, fewness: Fewness
) -> RarePlan:
    """Plan a fit of classes that all have few rows: one split that leaves each on both sides."""
    share = max(options.plan.test_size, 1 / fewness.smallest)
    note = _few_note(fewness.smallest, share)
    if head.options and fewness.smallest < _COMPETING:
        head = get_head("logreg")  # nothing could choose among heads
    changed = [
        replace(one, samples=replace(one.samples, notes=(*one.samples.notes, note)))
        for one in found
    ]
    split = str(share) if options.split == "auto" else options.split
    options = replace(options, split=split, nested=False, repeats=1)
    return RarePlan(changed, head, options, few=True)


def _few_note(smallest: int, share: float) -> Warn:
    left = smallest - -(-smallest * share // 1)
    how = (
        f"the search has {int(left)} folds"
        if left >= 2
        else "the search scores candidates on the rows they are fitted on, which favours the most "
        "flexible, and says nothing of the score or of probabilities"
    )
    text = f"classes have as few as {smallest} rows: {share:.0%} of them measure, and {how}"
    return warn("few-rows-per-class", text)


LEAST = 3
"""Images of a class: one to learn from, one to choose by, one to measure with."""


def require_trainable(
    source: Source, *, drop_rare: bool, missing: Sequence[str], regression: bool = False
) -> None:
    """Refuse a local folder or table whose labels cannot make a model.

    Other sources are listed once, by the extraction; their labels are checked after it.

    Parameters
    ----------
    drop_rare
        Whether classes of too few images are left out later.
    missing
        Texts that mean an empty field of a table.
    regression
        Whether the head predicts numbers: no class needs images then.

    Raises
    ------
    FitError
        If labels are missing, if a classifier gets numbers, if all images have the same class, or
        if a class has too few images. The message says what to do.
    """
    if not isinstance(source, str | os.PathLike):
        raise FitError(
            "a list of images has no labels, so there is nothing to learn from; pass a folder of "
            "class folders, or a table with the columns path and label"
        )
    path = Path(source)
    if path.is_dir() or path.suffix.lower() == ".csv":
        listed_images = load_manifest(source, missing=tuple(missing))
        check_labels(listed_images, drop_rare=drop_rare, regression=regression)


def check_labels(manifest: Manifest, *, drop_rare: bool = False, regression: bool = False) -> None:
    """Check the labels of a list of images."""
    names = _names(manifest.labels)
    if names is None:
        return
    counts, where = Counter(names), manifest.name
    if not counts:
        raise FitError(
            f"{where} has {len(manifest)} images and no labels, so there is nothing to learn from. "
            f"Put the images of each class into a folder of its own ({where}/CLASS/...), or name "
            "them in a table with the columns path and label. Features need no labels: `featx "
            f"extract {where} features.h5`"
        )
    if regression:
        return
    if look_like_measurements(names):
        raise FitError(
            f"{where}: labels are numbers (as {names[0]}), and a classifier takes names; name a "
            "head that predicts numbers: --head ridge-reg, svr or knn-reg"
        )
    if len(counts) == 1:
        only, n = next(iter(counts.items()))
        raise FitError(
            f"{where}: all {n} labelled images are of class {only!r}, and a classifier tells "
            "classes apart; add a folder with images of something else. Features need no second "
            f"class: `featx extract {where} features.h5`"
        )
    few = {name: n for name, n in counts.items() if n < LEAST}
    large = len(counts) - len(few)
    if few and not (drop_rare and large >= 2):
        named = listed([f"{shown(repr(k), 60)} ({n})" for k, n in sorted(few.items())], _SHOWN)
        raise FitError(
            f"{where}: fewer than {LEAST} images in class {named}. A class needs {LEAST}: "
            "one to learn from, one to choose by and one to measure with; from 10 on the figures "
            "say something. Add images, or "
            + ("pass --rare drop to leave such classes out" if large >= 2 else "merge classes")
        )


def _names(labels: Labels | None) -> list[str] | None:
    """List the labels that are there; None where they are not single names."""
    if labels is None:
        return []
    found = []
    for value in labels:
        if isinstance(value, str):
            found.append(value)
        elif value is not None:
            return None
    return [value for value in found if value]
