"""Judge the features of a cache by the protocol of a paper, on the rows of its split."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.cache.cache import Cache
from featx.errors import FitError
from featx.evaluation import baseline, intervals_of
from featx.fitting.figures import FitResult, worse_notes
from featx.fitting.leaks import CODE, without_seen
from featx.fitting.options import FitOptions, usable_samples
from featx.fitting.samples import Samples
from featx.heads import get_head
from featx.protocols import Protocol, get_protocol, run_protocol
from featx.protocols.rules import PROTOCOL_OPTIONS, require_options
from featx.selection import Split, leak_warnings, make_split
from featx.selection.checks import Warn, check_groups, warn
from featx.typing import JsonObject

_ALLOWED = ("tap", "label", "groups", "split", "seed", "protocol")


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
        if f.name not in (*_ALLOWED, *PROTOCOL_OPTIONS)
        and getattr(options, f.name) != getattr(plain, f.name)
    ]
    if odd:
        flag = "--" + odd[0].replace("_", "-")
        raise FitError(
            f"--protocol {protocol.name} and {flag} exclude each other: a protocol has a head and "
            f"a choice of its own, and leaves no model; leave out {flag}"
        )
    require_options(protocol, {name: getattr(options, name) for name in PROTOCOL_OPTIONS})
    return protocol


def probe(cache: Cache, options: FitOptions) -> FitResult:
    """Run a protocol on the labelled rows of a cache.

    The source's split is kept; where there is none, a stratified quarter is held out. Where a
    protocol chooses on validation rows and the split names none, its share of the training rows is
    drawn: stratified, or at random as the protocol says; groups are kept together. Where a protocol
    takes views and the cache keeps them apart, all views of the tap's layer are used.

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
    X = _features(cache, samples, protocol)
    codes = check_groups(samples.groups, len(samples))
    given = {name: getattr(options, name) for name in PROTOCOL_OPTIONS}
    found = run_protocol(
        protocol.name, X, samples.y, split, seed=options.seed, groups=codes, **given
    )
    test, known = _test(found), _baseline(samples, split, codes, options.seed)
    return FitResult(
        head=protocol.name,
        chosen={
            "params": found["chosen"],
            "scoring": found["metric"],
            "tried": found["tried"],
            **({"by_k": found["by_k"]} if "by_k" in found else {}),
            "rule": protocol.rule,
            "source": protocol.source,
        },
        test=test,
        baseline=known,
        warnings=[
            *_leaks(samples, split),
            *_asked(cache, protocol),
            *_edge(protocol, found),
            *_left_out(protocol, found),
            *worse_notes(test, known),
        ],
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
    if split.validation is not None or protocol.draws_validation is None:
        return split
    if protocol.draws_validation == "random" and samples.groups is None:
        return split  # `run_protocol` draws
    inner = make_split(
        samples.y[split.train],
        groups=None if samples.groups is None else samples.groups[split.train],
        test_size=protocol.validation_share,
        seed=options.seed,
        task=samples.task,
    )
    return Split(split.train[inner.train], split.train[inner.test], split.test)


def _features(cache: Cache, samples: Samples, protocol: Protocol) -> NDArray[np.float32]:
    """Read the features, with an axis for the views where the protocol and the cache have them."""
    every = np.arange(len(samples))
    layer = samples.tap.split("@")[0]
    names = [name for name in cache.taps if name.split("@")[0] == layer]
    if not protocol.views or len(names) < 2:
        return samples.take(every)
    views = [replace(samples, tap=name, features=cache.tap(name)).take(every) for name in names]
    return np.stack(views, axis=1)


def _asked(cache: Cache, protocol: Protocol) -> list[Warn]:
    """Say where pictures were read otherwise than the protocol asks."""
    if not protocol.asks:
        return []
    if cache.spec.is_external:
        text = (
            f"{protocol.name} asks for pictures with {_told(protocol.asks)}; these vectors were "
            "computed elsewhere, so that cannot be checked"
        )
        return [warn("preprocessing-unknown", text)]
    here = cache.spec.preprocess
    other = [name for name, value in protocol.asks.items() if _plain(here.get(name)) != value]
    if not other:
        return []
    text = (
        f"{protocol.name} asks for {_told({name: protocol.asks[name] for name in other})}; the "
        f"cache has {_told({name: here.get(name) for name in other})}: its figure is not the "
        f"protocol's; extract with {_extract_flags(protocol.asks)}"
    )
    return [warn("preprocessing-differs", text)]


def _plain(value: object) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _told(values: Mapping[str, object]) -> str:
    said = {
        name: "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        for name, value in values.items()
    }
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in said.items())


def _extract_flags(asks: Mapping[str, Any]) -> str:
    """Write the options of ``featx extract`` that read pictures so."""
    flags = []
    if "input_size" in asks:
        side, resized = asks["input_size"][0], asks["resize_size"][0]
        flags.append(f"--input-size {side} --crop-pct {side / resized:g} --resize crop")
    if "interpolation" in asks:
        flags.append(f"--interpolation {asks['interpolation']}")
    if "views" in asks:
        flags.append(f"--views {','.join(asks['views'])}")
    return " ".join(flags)


def _left_out(protocol: Protocol, found: JsonObject) -> list[Warn]:
    if not found.get("left_out"):
        return []
    shots = ", ".join(map(str, found["left_out"]))
    text = f"{protocol.name} leaves out {shots} rows of each class: a class has too few for it"
    return [warn("few-shots", text)]


def _learnt(split: Split) -> Any:
    return split.train if split.validation is None else np.r_[split.train, split.validation]


def _baseline(samples: Samples, split: Split, codes: Any, seed: int) -> JsonObject:
    groups = None if codes is None else codes[split.test]
    known, test = samples.y[_learnt(split)], samples.y[split.test]
    return baseline(known, test, task=samples.task, groups=groups, seed=seed)


def _leaks(samples: Samples, split: Split) -> list[Warn]:
    notes = [note for note in samples.notes if note["code"] == CODE]
    return notes + leak_warnings(
        _learnt(split), split.test, digests=samples.digests, groups=samples.groups, y=samples.y
    )


def _edge(protocol: Protocol, found: JsonObject) -> list[Warn]:
    cost = found["chosen"].get("C")
    ends = [pair[0] for pair in found["tried"]]
    if not isinstance(cost, float) or not ends or min(ends) < cost < max(ends):
        return []
    text = f"{protocol.name} chose C={cost:g}, an end of its grid; a better value may lie beyond"
    return [warn("c-at-grid-edge", text)]


def _per_class(samples: Samples, found: JsonObject) -> JsonObject:
    figures = dict(zip(samples.classes, found.get("per_class", []), strict=False))
    known = zip(samples.classes, found["measured"]["per_class"].values(), strict=True)
    return {
        name: one | ({"average_precision": figures[name]} if name in figures else {})
        for name, one in known
    }


def _test(found: JsonObject) -> JsonObject:
    """The protocol's own metric first, then those that every head is measured by."""
    every = intervals_of(found["measured"])
    return {found["metric"]: found["figure"]} | {
        name: figure for name, figure in every.items() if name != found["metric"]
    }


def _how(samples: Samples, found: JsonObject, options: FitOptions) -> str:
    held = f"{options.plan.test_size:.0%} of the rows held out"
    how = "the split of the source" if samples.split is not None else held
    n, chosen = found["n_validation"], found["chosen"]
    if "episodes" in chosen:
        return (
            f"{how}; {chosen['episodes']} draws of {chosen['shots'][-1]} rows of each class; "
            "metrics but the first are those of the median draw"
        )
    return f"{how}; {n} validation rows chose" if n else how
