"""From a folder to a verdict: embed, choose, measure, fit on all rows, save and report."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from featx.arguments import several, typed
from featx.cache.cache import Cache, open_cache
from featx.errors import FeatxError, ModelError
from featx.extraction.options import DEFAULT_BACKBONE, ExtractResult
from featx.fitting.audit import MOST_PICTURES
from featx.fitting.figures import FitResult
from featx.fitting.options import FitOptions
from featx.fitting.rare import require_trainable
from featx.fitting.training import fit_caches
from featx.fitting.verdict import TrainResult
from featx.heads import Head, get_head
from featx.items import Source
from featx.model.modelfile import load_model
from featx.spec import library_versions
from featx.targets import require_writable
from featx.typing import JsonObject

log = logging.getLogger("featx")

_SUFFIXES = (".h5", ".featx", ".html")
_SHARED = (
    *("weights", "layers", "pool", "input_size", "missing", "device", "precision", "batch_size"),
    *("compile", "threads", "on_error", "max_failed", "force", "progress"),
)
"""Options that are those of `featx.extract`."""


@typed
def train(
    source: Source,
    out: str | os.PathLike[str] | None = None,
    *,
    backbones: str | Sequence[str] = DEFAULT_BACKBONE,
    weights: str | os.PathLike[str] | None = None,
    layers: str | Sequence[str] = (),
    pool: str | None = None,
    input_size: int | None = None,
    missing: Sequence[str] = (),
    tune: str | None = None,
    head: str | Head | Any = None,
    label: str | None = None,
    groups: str | None = None,
    split: str | float = "auto",
    folds: int = 5,
    repeats: int | None = None,
    nested: bool | None = None,
    fit_on: Literal["auto", "all", "train"] = "auto",
    rare: Literal["error", "drop"] = "error",
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | Literal["auto"] = "auto",
    compile: Literal["auto", "on", "off"] = "auto",
    threads: int | None = None,
    on_error: Literal["skip", "fail"] = "skip",
    max_failed: int | None = None,
    force: bool = False,
    progress: bool = True,
) -> TrainResult:
    """Go from labelled images to a measured model: everything in one call.

    The images are embedded (what exists is reused), heads compete, the choice is measured on images
    that no head had seen, the winner is fitted on all of them, and cache, model and report are
    saved beside each other. A second call reuses all that has not changed.

    Parameters
    ----------
    source
        What `featx.extract` takes: a folder of class folders, a table, tars, a list, a URL.
    out
        Where the files go, without a suffix: ``photos`` gives ``photos.h5``, ``photos.featx`` and
        ``photos.html``, and ``results/`` puts files of the source's name there. The name of the
        source, in the current folder, when None.
    backbones
        One network, or several that compete inside the measurement, each with a cache of its own.
    weights, layers, pool, input_size, missing
        As in `featx.extract`.
    tune
        Layer above which the network is trained first (`featx.tune`). The test rows are held out of
        that as well, so heads are measured on images that neither they nor the network have seen;
        frozen features are measured beside, on the same rows.
    head, label, groups, split, folds, repeats, nested, fit_on, rare, seed
        As in `featx.fit`.
    device, precision, batch_size, compile, threads, on_error, max_failed, progress
        As in `featx.extract`.
    force
        Replace files of these names that featx did not write, and a cache of another network.

    Returns
    -------
    result : shows the verdict, and holds ``extract``, ``audit``, ``fit`` and ``files``

    Raises
    ------
    OptionError
        If an option has a wrong type.
    FitError
        If there are too few labels to learn from; the message says what is possible.
    FeatxError
        As `featx.extract` and `featx.fit`.

    Examples
    --------
    >>> import featx
    >>> result = featx.train("photos/")  # doctest: +SKIP
    >>> result.fit.accuracy.value  # doctest: +SKIP
    0.93
    """
    given = dict(locals())
    own = {f.name for f in fields(FitOptions)} - {"device"}
    asked = FitOptions.of(**{name: given[name] for name in own if name in given})
    base = _base(source, out)
    found = get_head("auto" if head is None else head)
    names = list(dict.fromkeys(several(backbones)))
    if not names:
        raise FeatxError("train: no backbone is named")
    caches = [_cache_place(base, name, len(names)) for name in names]
    model, page = _beside(base, ".featx"), _beside(base, ".html")
    read = source if isinstance(source, str | os.PathLike) else None
    if tune is not None:
        _require_one_tuning(names, repeats, nested)
    require_writable(model, "model", read, *caches, force=force)
    require_writable(page, "report", read, *caches, model, force=force)
    if label is None:
        require_trainable(
            source,
            drop_rare=rare == "drop",
            missing=several(missing),
            regression=found.task == "regression",
        )
    options = {name: given[name] for name in _SHARED}
    tuned = None
    if tune is not None:
        tuned = _tuned(source, base, names[0], tune, given)
        options["weights"] = tuned["weights"]
    extracted = [
        _embedded(source, place, name, options) for name, place in zip(names, caches, strict=True)
    ]
    with ExitStack() as stack:
        opened = [stack.enter_context(open_cache(place)) for place in caches]
        key = _key(opened, found, asked)
        fitted = _known(model, page, key)
        reused = fitted is not None
        if fitted is None:
            line = _command(source, base if out is not None else None, names, tune, head, asked)
            # The user named the source himself: its pictures may be fetched for the report.
            followed = replace(asked, fetch=True)
            fitted = fit_caches(
                opened,
                found,
                followed,
                out=model,
                report=page,
                command=line,
                key=key,
                pictures=MOST_PICTURES,
            )
        won = [os.fspath(place) for place in caches].index(fitted.cache)
        example = str(opened[won].paths[0])
    return TrainResult(
        extract=extracted[won],
        others=[one for k, one in enumerate(extracted) if k != won],
        audit={} if fitted.model is None else dict(fitted.model.meta.get("audit", {})),
        fit=fitted,
        files={"cache": fitted.cache, "model": str(model), "report": str(page)},
        reused=reused,
        example=example,
        tune=tuned,
    )


def _require_one_tuning(backbones: list[str], repeats: int | None, nested: bool | None) -> None:
    """Refuse what would tune several times: networks, and splits that tuning does not know."""
    if len(backbones) > 1:
        raise FeatxError(f"train --tune trains one network, got {', '.join(backbones)}; name one")
    if nested or (repeats or 1) > 1:
        flag = "--nested" if nested else "--repeats"
        raise FeatxError(
            f"train --tune holds out one set of test rows, and {flag} would test on rows that the "
            "network was trained on; leave it out"
        )


def _tuned(
    source: Source, base: Path, backbone: str, layer: str, given: dict[str, Any]
) -> JsonObject:
    """Train the layers above one with test rows held out; write ``NAME.safetensors``."""
    from featx.tuning.tune import tune

    same = ("input_size", "missing", "label", "groups", "split", "seed", "device", "threads")
    result = tune(
        source,
        _beside(base, ".safetensors"),
        layer=layer,
        backbone=backbone,
        start=given["weights"],
        precision=given["precision"] if given["precision"] in ("fp32", "bf16") else "auto",
        baselines="frozen",
        force=given["force"],
        progress=given["progress"],
        **{name: given[name] for name in same},
    )
    return result.to_dict()


def _base(source: Source, out: str | os.PathLike[str] | None) -> Path:
    """Name the files without their suffix."""
    if out is not None:
        text = os.fspath(out)
        if text.endswith(("/", os.sep)):
            return Path(text) / _name(source)
        path = Path(text)
        return path.with_suffix("") if path.suffix in _SUFFIXES else path
    return Path(_name(source))


def _name(source: Source) -> str:
    if not isinstance(source, str | os.PathLike):
        raise FeatxError("train: a list of images has no name; say where the files go with out")
    text = os.fspath(source).rstrip("/" + os.sep)
    path = Path(text)
    name = path.resolve().name if path.exists() else text.rsplit("/", 1)[-1]
    name = name if path.is_dir() else name.split(".")[0]
    name = re.sub(r"[^\w.-]+", "-", name).strip("-.")
    if not name:
        raise FeatxError(f"train: {text!r} gives no name for the files; say where they go with out")
    return name


def _beside(base: Path, suffix: str) -> Path:
    return base.with_name(base.name + suffix)


def _cache_place(base: Path, backbone: str, n: int) -> Path:
    """Name the cache of a network; several networks stand in the names."""
    if n == 1:
        return _beside(base, ".h5")
    return _beside(base, f".{re.sub(r'[^A-Za-z0-9_.-]+', '-', backbone).strip('-')}.h5")


def _embedded(source: Source, place: Path, backbone: str, options: dict[str, Any]) -> ExtractResult:
    from featx.extraction.extraction import extract

    return extract(source, place, backbone=backbone, **options)


def _key(caches: Sequence[Cache], head: Head, asked: FitOptions) -> str:
    """Digest all that decides a fit: features, labels, options, and the libraries' versions."""
    digest = hashlib.sha256()
    options = {f.name: getattr(asked, f.name) for f in fields(asked) if f.name != "force"}
    versions = {n: v for n, v in library_versions().items() if n in ("featx", "scikit-learn")}
    plain = [options, versions, repr(head), str(asked.plan)]
    digest.update(json.dumps(plain, sort_keys=True, default=str).encode())
    for cache in caches:
        known = [str(cache.path), cache.fingerprint, list(cache.ids), cache.classes, cache.split]
        digest.update(json.dumps(known, default=list).encode())
        digest.update(np.ascontiguousarray(cache.content_digests).tobytes())
        digest.update(b"" if cache.y is None else np.ascontiguousarray(cache.y).tobytes())
        for name in cache.columns:
            column = cache.columns[name]
            digest.update(f"{name}\0".encode())
            digest.update("\0".join(map(str, column.tolist())).encode(errors="replace"))
    return digest.hexdigest()


def _known(model: Path, page: Path, key: str) -> FitResult | None:
    """Give the result of the same fit, where its model and report are still there."""
    if not (model.exists() and page.exists()):
        return None
    try:
        found = load_model(model)
        if found.meta.get("trained_key") != key:
            return None
        known = {f.name for f in fields(FitResult)}
        figures = {name: value for name, value in found.figures.items() if name in known}
        return FitResult(**{**figures, "path": str(model), "model": found})
    except (ModelError, TypeError) as error:
        log.info("%s is fitted again: %s", model, error)
        return None


def _command(
    source: Source,
    base: Path | None,
    backbones: list[str],
    tune: str | None,
    head: object,
    asked: FitOptions,
) -> str:
    """Write the line of the shell that does it again."""
    shown = os.fspath(source) if isinstance(source, str | os.PathLike) else "SOURCE"
    words = ["featx", "train", shown]
    words += [] if base is None else ["--out", str(base)]
    words += [] if backbones == [DEFAULT_BACKBONE] else ["--backbones", ",".join(backbones)]
    words += [] if tune is None else ["--tune", tune]
    words += ["--head", head] if isinstance(head, str) else []
    for name, value in asked.changed().items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words += [flag if value else flag.replace("--", "--no-", 1)]
        else:
            words += [flag, str(value)]
    return shlex.join(words)
