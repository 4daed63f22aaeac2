"""What `featx info` and a notebook show of a cache, read by blocks."""

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
    from featx.cache.reader import Cache


def summary(cache: Cache, file: h5py.File) -> dict[str, Any]:
    """Summarise a cache, JSON-ready; `file` is what it reads from."""
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
        "spec": json.loads(cache.spec.to_json()),
        "provenance": cache.provenance,
    }


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
