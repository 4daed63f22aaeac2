"""Rows that a test must not hold: seen by the network, or copies of training rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from featx.errors import FitError
from featx.fitting.contenders import Contender
from featx.fitting.findings import Audit
from featx.fitting.measuring import MeasuredHead
from featx.fitting.options import FitOptions
from featx.fitting.samples import Samples
from featx.selection import make_split
from featx.selection.checks import Warn, check_groups, warn

CODE = "seen-by-backbone"
SEEN = "seen by the backbone"
"""Why rows were left out, in the counts of a result."""


def barred_rows(samples: Samples) -> NDArray[np.bool_]:
    """Rows that nothing may be measured on: seen by the network, or of a group that it saw."""
    if samples.seen is None:
        return np.zeros(len(samples), bool)
    if samples.groups is None or not samples.seen.any() or samples.seen.all():
        return samples.seen
    codes = check_groups(samples.groups, len(samples))
    assert codes is not None
    return np.isin(codes, codes[samples.seen])


def seen_note(barred: int, rows: int, what: str) -> Warn:
    """Say how many rows the network was trained on, and what became of them."""
    text = f"the network was trained on {barred} of {rows} rows (`featx tune`): {what}"
    return warn(CODE, text)


def refuse_seen(rows: int) -> FitError:
    """Say that no row is left to measure on."""
    return FitError(
        f"{CODE}: the network was trained on all {rows} labelled rows (`featx tune`), so that none "
        "can measure a head; use other images, or tune again with test rows (--split)"
    )


def without_seen(samples: Samples, test_size: float, seed: int) -> Samples:
    """Draw the test rows among those that the network was not trained on.

    A split of the source is kept, but for test rows that were seen: they go to the training side.

    Raises
    ------
    FitError
        If no test row is left; the message begins with the code ``seen-by-backbone``.
    """
    barred = barred_rows(samples)
    if not barred.any():
        return samples
    if barred.all():
        raise refuse_seen(len(samples))
    if samples.split is None:
        split = np.full(len(samples), "train", object)
        split[_drawn(samples, np.flatnonzero(~barred), test_size, seed)] = "test"
    else:
        split = samples.split.copy()
        names = np.array([str(value).strip().lower() for value in split])
        tested = names == "test" if (names == "test").any() else names != "train"
        split[tested & barred] = "train"
        if not (tested & ~barred).any():
            raise refuse_seen(int(tested.sum()))
    note = seen_note(int(barred.sum()), len(samples), "they are on the training side")
    return replace(samples, split=split, notes=(*samples.notes, note))


def _drawn(
    samples: Samples, free: NDArray[np.intp], test_size: float, seed: int
) -> NDArray[np.intp]:
    """Take the share of all rows that is to be tested from the free ones; all if they are few."""
    share = test_size * len(samples) / len(free)
    if share >= 1:
        return free
    groups = None if samples.groups is None else samples.groups[free]
    try:
        split = make_split(
            samples.y[free], groups=groups, test_size=share, seed=seed, task=samples.task
        )
    except FitError:  # too few rows of a class, or of groups, to be divided
        return free
    return free[split.test]


def guard(found: Sequence[Contender], options: FitOptions) -> list[Contender]:
    """Give all contenders the same test rows, none of which a network of theirs has seen.

    Raises
    ------
    FitError
        If none is left, or outer folds or repeats were asked for.
    """
    barred = np.any([barred_rows(one.samples) for one in found], axis=0)
    if not barred.any():
        return list(found)
    if options.nested or (options.repeats or 1) > 1:
        flag = "--nested" if options.nested else "--repeats"
        raise FitError(
            f"{CODE}: the network was trained on {int(barred.sum())} of {len(barred)} rows, and "
            f"{flag} would test on them; leave it out"
        )
    first = replace(found[0].samples, seen=barred)
    kept = without_seen(first, options.plan.test_size, options.seed)
    return [
        replace(
            one,
            samples=replace(
                one.samples,
                split=kept.split,
                seen=barred,
                notes=(*one.samples.notes, kept.notes[-1]),
            ),
        )
        for one in found
    ]


def copies_across(found: Audit, samples: Samples, measured: MeasuredHead) -> list[Warn]:
    """Warn of test images that look like copies of training images, but are not byte for byte."""
    place = {str(name): at for at, name in enumerate(samples.ids)}
    pairs = [
        (place[one["id"]], place[one["other"]])
        for one in found.findings
        if one["kind"] == "near-duplicate" and one["score"] < 1
        if one["id"] in place and one["other"] in place
    ]
    if not pairs:
        return []
    a, b = np.array(pairs).T
    apart = measured.apart(a, b)
    if not apart.any():
        return []
    rows = np.intersect1d(np.r_[a[apart], b[apart]], measured.test)
    first = int(apart.argmax())
    text = (
        f"{len(rows)} of {len(measured.test)} test images cannot be told from training images: "
        "copies saved again, resized or brightened, or things that look the same (first: "
        f"{samples.ids[a[first]]} = {samples.ids[b[first]]}); of copies the score is too good"
    )
    return [warn("duplicates-across-split", text)]
