"""The summary of a cache for `featx info` and a notebook, read by blocks."""

from __future__ import annotations

import json
from collections import Counter
from html import escape
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from featx.cache.format import BLOCK_ROWS, values_of
from featx.files import size_text

if TYPE_CHECKING:
    from featx.cache.cache import Cache


_NAMED = 10  # failed images, and groups of equal ones, that a summary names
_MOST_COMPARED = 5_000_000  # rows whose digests are compared: 64 bytes each


def summary(cache: Cache, file: h5py.File, everything: bool = False) -> dict[str, Any]:
    """Summarise a cache, JSON-ready; `file` is what it reads from.

    Failed images and equal ones are counted, and the first are named; all with `everything`.
    """
    most = None if everything else _NAMED
    equal = _equal_images(cache, file)
    return {
        "cache": str(cache.path),
        "fingerprint": cache.fingerprint,
        "rows": len(cache),
        "failed": file["failed/ids"].shape[0] if "failed/ids" in file else 0,
        "bytes": cache.n_bytes,
        "parts": cache.n_parts,
        "taps": {name: cache.tap(name).shape[1] for name in cache.taps},
        "classes": _class_counts(cache.classes, file),
        "columns": sorted(file.get("columns", ())),
        "split": _split_counts(file),
        "failures": dict(list(cache.failed.items())[:most]),
        "duplicates": None if equal is None else len(equal),
        "duplicate_ids": [[cache.ids[row] for row in rows] for rows in (equal or [])[:most]],
        "spec": json.loads(cache.spec.to_json()),
        "provenance": _counted_seen(cache),
    }


def _counted_seen(cache: Cache) -> dict[str, Any]:
    """Provenance with the number of rows that the network was trained on, not their digests."""
    found = cache.provenance
    if not found.get("weights", {}).get("seen"):
        return found
    return found | {"weights": found["weights"] | {"seen": int(cache.seen_by_backbone.sum())}}


def _equal_images(cache: Cache, file: h5py.File) -> list[list[int]] | None:
    """Rows of each content that several rows have; None where there are too many to compare."""
    if "content" not in file or not len(cache):
        return []
    if len(cache) > _MOST_COMPARED:
        return None
    digests = cache.content_digests
    order = np.argsort(digests, kind="stable")
    starts = np.flatnonzero(np.r_[True, digests[order][1:] != digests[order][:-1]])
    groups = np.split(order, starts[1:])
    known = [g for g in groups if len(g) > 1 and digests[g[0]]]
    return sorted((group.tolist() for group in known), key=lambda rows: rows[0])


def _class_counts(classes: list[str] | None, file: h5py.File) -> dict[str, int]:
    if classes is None or "labels" not in file:
        return {}
    labels, counts = file["labels"], np.zeros(len(classes), np.int64)
    for start in range(0, labels.shape[0], BLOCK_ROWS):
        block = values_of(labels, slice(start, start + BLOCK_ROWS))
        if block.ndim == 2:  # rows may have several
            counts += (block == 1).sum(axis=0)
        else:
            known = block[(block >= 0) & (block < len(classes))]
            counts += np.bincount(known, minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


def _split_counts(file: h5py.File) -> dict[str, int]:
    counts: Counter[str] = Counter()
    if "split" in file:
        split = file["split"]
        for start in range(0, split.shape[0], BLOCK_ROWS):
            names, found = np.unique(
                values_of(split, slice(start, start + BLOCK_ROWS)), return_counts=True
            )
            counts.update(dict(zip((n.decode() for n in names), found.tolist(), strict=True)))
    return {name: counts[name] for name in sorted(counts)}


def as_html(cache: Cache) -> str:
    """Show a cache in a notebook."""
    info, spec = cache.info(), cache.spec
    shown = {
        "rows": f"{info['rows']} ({info['failed']} images failed)",
        "backbone": f"{spec.architecture}, {spec.precision}",
        "taps": ", ".join(f"{name} ({width})" for name, width in info["taps"].items()),
        "classes": ", ".join(f"{k} ({v})" for k, v in info["classes"].items()) or "no labels",
        "columns": ", ".join(info["columns"]) or "none",
        "size": size_text(info["bytes"]),
        "fingerprint": info["fingerprint"][:16],
    }
    rows = "".join(
        f"<tr><th style='text-align:left'>{escape(k)}</th>"
        f"<td style='text-align:left'>{escape(v)}</td></tr>"
        for k, v in shown.items()
    )
    return f"<table><caption>{escape(str(cache.path))}</caption>{rows}</table>"
