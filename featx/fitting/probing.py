"""Judge the features of a cache by the protocol of a paper, on the rows of its split."""

from __future__ import annotations

import time
from dataclasses import fields, replace
from typing import Any

import numpy as np

from featx.cache.cache import Cache
from featx.errors import FitError
from featx.evaluation import baseline
from featx.fitting.leaks import CODE, without_seen
from featx.fitting.options import FitOptions, FitResult, usable_samples
from featx.fitting.samples import Samples
from featx.heads import get_head
from featx.protocols import Protocol, get_protocol, run_protocol
from featx.selection import Split, leak_warnings, make_split
from featx.selection.checks import Warn, check_groups, warn

_ALLOWED = ("tap", "label", "groups", "split", "seed", "protocol")
_DRAWS_VALIDATION = ("kornblith", "clip", "dinov2-logreg")
"""Protocols that choose on validation rows and learn from them afterwards."""


def require_protocol(options: FitOptions, taken: dict[str, bool]) -> Protocol:
    """Find the protocol that is asked for, and refuse what cannot go with one.

    Parameters
    ----------
    taken
        Other options of the shell (``head``, ``out``...) and whether they were given.

    Raises
    ------
    FitError
        For an unknown protocol (with the nearest names), or an option that it rules out.
    """
    protocol = get_protocol(str(options.protocol))
    plain = type(options)()
    odd = [name for name, given in taken.items() if given]
    odd += [
        f.name
        for f in fields(options)
        if f.name not in _ALLOWED and getattr(options, f.name) != getattr(plain, f.name)
    ]
    if odd:
        flag = "--" + odd[0].replace("_", "-")
        raise FitError(
            f"--protocol {protocol.name} and {flag} exclude each other: a protocol has a head and "
            f"a choice of its own, and leaves no model; leave out {flag}"
        )
    return protocol


def probe(cache: Cache, options: FitOptions) -> FitResult:
    """Run a protocol on the labelled rows of a cache.

    The source's split is kept; where there is none, a stratified quarter is held out. Where a
    protocol chooses on validation rows and the split names none, its share of the training rows is
    drawn, stratified and with groups kept together.

    Raises
    ------
    FitError
        If the protocol cannot be run on these rows.
    """
    start, protocol = time.perf_counter(), get_protocol(str(options.protocol))
    # Classes are read as any classifier reads them; errors name the protocol.
    reader = replace(get_head("logreg"), name=protocol.name)
    samples = usable_samples(cache, reader, options)
    samples = without_seen(samples, options.plan.test_size, options.seed)
    split = _split(samples, protocol, options)
    X = samples.take(np.arange(len(samples)))
    found = run_protocol(protocol.name, X, samples.y, split, seed=options.seed)
    return FitResult(
        head=protocol.name,
        chosen={
            "params": found["chosen"],
            "scoring": found["metric"],
            "tried": found["tried"],
            "rule": protocol.rule,
            "source": protocol.source,
        },
        test=_test(found),
        baseline=_baseline(samples, split, options.seed),
        warnings=[*_leaks(samples, split), *_edge(protocol, found)],
        n_train=found["n_train"],
        n_test=found["n_test"],
        cv={},
        classes=samples.classes,
        confusion=found["measured"].get("confusion", []),
        per_class=_per_class(samples, found),
        cache=str(cache.path),
        fingerprint=cache.fingerprint,
        tap=samples.tap,
        excluded=samples.excluded,
        measured_by=_how(samples, found, options),
        trained_on=0,
        test_ids=samples.ids[split.test].tolist(),
        seconds=time.perf_counter() - start,
    )


def _split(samples: Samples, protocol: Protocol, options: FitOptions) -> Split:
    split = make_split(
        samples.y,
        split=samples.split,
        groups=samples.groups,
        test_size=options.plan.test_size,
        seed=options.seed,
        task=samples.task,
    )
    if split.validation is not None or protocol.name not in _DRAWS_VALIDATION:
        return split
    inner = make_split(
        samples.y[split.train],
        groups=None if samples.groups is None else samples.groups[split.train],
        test_size=protocol.validation_share,
        seed=options.seed,
        task=samples.task,
    )
    return Split(split.train[inner.train], split.train[inner.test], split.test)


def _learnt(split: Split) -> Any:
    return split.train if split.validation is None else np.r_[split.train, split.validation]


def _baseline(samples: Samples, split: Split, seed: int) -> dict[str, Any]:
    codes = check_groups(samples.groups, len(samples))
    groups = None if codes is None else codes[split.test]
    known, test = samples.y[_learnt(split)], samples.y[split.test]
    return baseline(known, test, task=samples.task, groups=groups, seed=seed)


def _leaks(samples: Samples, split: Split) -> list[Warn]:
    notes = [note for note in samples.notes if note["code"] == CODE]
    return notes + leak_warnings(
        _learnt(split), split.test, digests=samples.digests, groups=samples.groups, y=samples.y
    )


def _edge(protocol: Protocol, found: dict[str, Any]) -> list[Warn]:
    cost = found["chosen"].get("C")
    ends = [pair[0] for pair in found["tried"]]
    if not isinstance(cost, float) or not ends or min(ends) < cost < max(ends):
        return []
    text = f"{protocol.name} chose C={cost:g}, an end of its grid; a better value may lie beyond"
    return [warn("c-at-grid-edge", text)]


def _per_class(samples: Samples, found: dict[str, Any]) -> dict[str, Any]:
    figures = dict(zip(samples.classes, found.get("per_class", []), strict=False))
    known = zip(samples.classes, found["measured"]["per_class"].values(), strict=True)
    return {
        name: one | ({"average_precision": figures[name]} if name in figures else {})
        for name, one in known
    }


def _test(found: dict[str, Any]) -> dict[str, Any]:
    """The protocol's own metric first, then those that every head is measured by."""
    every = {k: v for k, v in found["measured"].items() if isinstance(v, dict) and "low" in v}
    return {found["metric"]: found["figure"], **every}


def _how(samples: Samples, found: dict[str, Any], options: FitOptions) -> str:
    held = f"{options.plan.test_size:.0%} of the rows held out"
    how = "the split of the source" if samples.split is not None else held
    n = found["n_validation"]
    return f"{how}; {n} validation rows chose" if n else how
