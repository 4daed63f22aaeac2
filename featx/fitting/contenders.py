"""Which features compete: the taps of a cache, or caches of several networks, on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from featx.cache.cache import Cache
from featx.errors import FitError
from featx.fitting.options import FitOptions, usable_samples
from featx.fitting.samples import Samples
from featx.heads import Head, for_rows, over_taps


@dataclass(frozen=True)
class Contender:
    """Features of one cache, as labelled rows; all contenders have the same rows in one order."""

    cache: Cache
    samples: Samples


def find_contenders(caches: Sequence[Cache], head: Head, options: FitOptions) -> list[Contender]:
    """Load the rows of every cache, and of each of its taps where the head chooses among them.

    Raises
    ------
    FitError
        If there are no rows to fit on, or caches share no row or disagree about a label.
    """
    found = []
    for cache in caches:
        several = bool(head.options) and options.tap is None
        for tap in cache.taps if several else [options.tap]:
            found.append(Contender(cache, usable_samples(cache, head, replace(options, tap=tap))))
    if len(found) > 1 and head.parts:
        raise FitError(f"head {head.name} combines taps itself, so it takes one cache")
    return _aligned(found) if len(caches) > 1 else found


def _aligned(found: list[Contender]) -> list[Contender]:
    """Keep the rows that every cache has, in the order of the first."""
    names = [one.samples.ids.tolist() for one in found]
    common = set(names[0]).intersection(*names[1:])
    if not common:
        raise FitError("the caches share no labelled row; take caches of the same images")
    left = len(set().union(*names)) - len(common)
    order = [name for name in names[0] if name in common]
    aligned = []
    for one, own in zip(found, names, strict=True):
        place = {name: k for k, name in enumerate(own)}
        samples = one.samples.at(np.array([place[name] for name in order]))
        excluded = {**samples.excluded, **({"not in every cache": left} if left else {})}
        aligned.append(Contender(one.cache, replace(samples, excluded=excluded)))
    for other in aligned[1:]:
        _require_same_labels(aligned[0], other)
    return aligned


def _require_same_labels(first: Contender, other: Contender) -> None:
    one, two = first.samples, other.samples
    if one.names == two.names and one.y.shape == two.y.shape:
        differ = (one.y != two.y).reshape(len(one), -1).any(axis=1)
        if not differ.any():
            return
        k = int(differ.argmax())
        what = f"call {one.ids[k]!r} {str(one.y[k])!r} and {str(two.y[k])!r}"
    else:
        what = "have other classes"
    raise FitError(
        f"{first.cache.path} and {other.cache.path} {what}; extract both from the same labels"
    )


def head_over(head: Head, samples: Samples) -> Head:
    """Fit a head to the rows: a stack to their taps, options and an SVM to their number."""
    return for_rows(over_taps(head, samples.widths), len(samples))
