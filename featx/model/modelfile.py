"""A model as one file: what it says of itself, saving, and loading without executing anything."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from featx.arguments import typed
from featx.cache.fingerprint import ExtractSpec, spec_difference
from featx.cache.reader import Cache
from featx.errors import FeatxError, ModelError
from featx.model.archive import FORMAT_VERSION, REPORT, dump, load, read_archive, write_archive
from featx.model.headfile import dump_head, load_head
from featx.model.model import SEEN, Model
from featx.model.scoring import has_several
from featx.model.thresholds import check_sets, check_thresholds
from featx.preprocess import Preprocess
from featx.provenance import library_versions

_NEEDED: dict[str, tuple[type, ...]] = {
    "head": (str,),
    "task": (str,),
    "classes": (list,),
    "tap": (str,),
    "options": (dict,),
    "n_train": (int,),
    "typical": (str, int, float, list),
}


def describe_model(
    cache: Cache, *, head: str, task: str, classes: list[str], tap: str, label: str | None
) -> dict[str, Any]:
    """Make the ``meta`` of a model fitted on `cache`."""
    known = cache.provenance
    options = known.get("options") or {"backbone": known.get("backbone")}
    return {
        "encoding-type": "featx-model",
        "encoding-version": FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": library_versions(),
        "head": head,
        "task": task,
        "classes": classes,
        "tap": tap,
        "label": label,
        "fingerprint": cache.fingerprint,
        "backbone": known.get("backbone"),
        "weights": known.get("weights", {}),
        "options": options,
        "cache": str(cache.path),
        "source": known.get("source"),
        "thresholds": {},
    }


def save_model(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model as one file, durably.

    Raises
    ------
    ModelError
        If the head holds a type that a model may not hold.
    CacheError
        If the file cannot be written.
    """
    members = {
        "meta.json": dump(model.meta),
        "spec.json": model.spec.to_json().encode(),
        "figures.json": dump(model.figures),
        "tested.json": dump(model.tested),
        "seen.bin": model.seen.tobytes(),
        "head.skops": dump_head(model.estimator),
        **({REPORT: dump(model.kept)} if model.kept else {}),
        **model.members,
    }
    write_archive(Path(path), members)


@typed
def load_model(path: str | os.PathLike[str]) -> Model:
    """Load a model; nothing in the file is ever executed.

    Parameters
    ----------
    path
        A file that `featx.fit` wrote.

    Raises
    ------
    ModelError
        If it is no model, damaged, of a newer version, or holds a type that it may not hold.

    Examples
    --------
    >>> import featx
    >>> model = featx.load_model("cells.featx")  # doctest: +SKIP
    """
    file = Path(path)
    members = read_archive(file)
    meta = load(file, "meta.json", members.pop("meta.json"))
    _check_meta(file, meta)
    seen = members.pop("seen.bin")
    if len(seen) % SEEN.itemsize:
        raise ModelError(f"{file} is damaged: seen.bin is cut off")
    estimator = load_head(members.pop("head.skops"), str(file))
    _check_head(file, estimator, meta)
    return Model(
        estimator=estimator,
        spec=_spec(file, meta, members.pop("spec.json")),
        meta=meta,
        figures=load(file, "figures.json", members.pop("figures.json")),
        seen=np.frombuffer(seen, SEEN),
        tested=load(file, "tested.json", members.pop("tested.json", b"{}")),
        kept=load(file, REPORT, members.pop(REPORT, b"{}")),
        members=members,
        path=file,
    )


def _check_meta(file: Path, meta: dict[str, Any]) -> None:
    if meta.get("encoding-type") != "featx-model":
        raise ModelError(f"{file} is not a featx model: meta.json names no such type")
    version = meta.get("encoding-version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ModelError(
            f"{file} has model format {version}, and this featx reads up to {FORMAT_VERSION}; "
            "update featx"
        )
    for name, kinds in _NEEDED.items():
        if not isinstance(meta.get(name), kinds):
            raise ModelError(f"{file} is damaged: meta.json has no proper {name!r}")
    check_thresholds(str(file), meta.get("thresholds", {}), meta["classes"])
    check_sets(str(file), meta.get("sets", {}), meta["classes"])
    named = {"classes": meta["classes"], "options": [meta["options"].get("backbone")]}
    for name, values in named.items():
        if not all(isinstance(value, str) for value in values):
            raise ModelError(f"{file} is damaged: meta.json has no proper {name!r}")


def _check_head(file: Path, estimator: Any, meta: dict[str, Any]) -> None:
    known, classes = list(getattr(estimator, "classes_", [])), meta["classes"]
    several = meta["task"] == "multilabel"
    fits = len(known) == len(classes) if several else {*map(str, known)} <= {*classes}
    width = getattr(estimator, "n_features_in_", None)
    sound = isinstance(width, int) and hasattr(estimator, "predict") and fits
    if not sound or several != has_several(estimator):
        raise ModelError(f"{file} is damaged: its head does not fit what meta.json says of it")


def _spec(file: Path, meta: dict[str, Any], data: bytes) -> ExtractSpec:
    try:
        spec = ExtractSpec.from_json(data.decode())
        fingerprint = spec.fingerprint
        spec_difference(spec, spec)  # walks through all of it
        if not spec.is_external:
            Preprocess.from_dict(spec.preprocess), spec.decode["mode"]
    except (FeatxError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{file} is damaged: spec.json is no spec ({error})") from None
    if fingerprint != meta.get("fingerprint"):
        raise ModelError(f"{file} is damaged: spec and fingerprint disagree")
    return spec
