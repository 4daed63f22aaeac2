"""What each dataset of a cache must be: its type, its rank and its length.

`docs/cache-format.md` says the same in words. A name that is not here is passed over by readers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from featx.errors import CacheFormatError

GROUPS = ("taps", "columns", "failed")


@dataclass(frozen=True)
class Form:
    """The form of one dataset.

    Parameters
    ----------
    types
        What it may hold: ``text``, ``json`` (one text), or types of numpy.
    length
        What its first axis counts, as ``rows``; those of one word have one length.
    widths
        Lengths that its second axis may have; it has none where this is empty.
    """

    types: tuple[str, ...]
    length: str = "rows"
    widths: tuple[int, ...] = ()


_NUMBERS = ("bool", "int", "uint", "float")

FORMS: Mapping[str, Form] = {
    "ids": Form(("text",)),
    "paths": Form(("text",)),
    "content": Form(("S64",)),
    "stamps": Form(("int64",), widths=(2, 3, 4)),
    "row_digest": Form(("S32",)),
    "split": Form(("text",)),
    "columns/*": Form((*_NUMBERS, "text")),
    "classes": Form(("text",), "classes"),
    "failed/ids": Form(("text",), "failed"),
    "failed/reasons": Form(("text",), "failed"),
    "id_index": Form(("uint64",), widths=(2,)),
    "parts": Form(("text",), "parts"),
    "part_rows": Form(("int64",), "parts", (2,)),
    "part_bytes": Form(("int64",), "parts"),
    "part_digest": Form(("S32",), "parts"),
    "spec": Form(("json",), ""),
    "provenance": Form(("json",), ""),
}
"""Form of each dataset but vectors and labels, whose forms depend on the spec and on others."""

_TOGETHER = (("failed/ids", "failed/reasons"),)


def require_forms(file: h5py.File, lengths: dict[str, int]) -> None:
    """Refuse a file in which a dataset has another type, rank or length than it must.

    Parameters
    ----------
    file
        Without links or external storage.
    lengths
        Known lengths, as of ``rows``; others are those of the first dataset that has them.

    Raises
    ------
    CacheFormatError
        With the dataset, what it is and what it should be.
    """
    for group in GROUPS:
        if group in file and not isinstance(file[group], h5py.Group):
            raise CacheFormatError(f"/{group} is a dataset, and should be a group")
    for name, dataset in _datasets(file):
        form = FORMS.get(name) or FORMS.get(f"{name.split('/')[0]}/*")
        if form is not None:
            _require_form(name, dataset, form, lengths)
    for one, other in _TOGETHER:
        if (one in file) != (other in file):
            raise CacheFormatError(f"/{one if other in file else other} is missing")
    if "labels" in file:
        _require_labels(file, lengths)


def _datasets(file: h5py.File) -> list[tuple[str, Any]]:
    found = []
    for name in file:
        if isinstance(file[name], h5py.Group):
            found += [(f"{name}/{inner}", file[name][inner]) for inner in file[name]]
        else:
            found.append((name, file[name]))
    return found


def _require_form(name: str, dataset: Any, form: Form, lengths: dict[str, int]) -> None:
    if form.types == ("json",):
        if dataset.shape != () or not is_text(dataset):
            raise CacheFormatError(f"/{name} is not one JSON text")
        return
    rank = 1 + bool(form.widths)
    if dataset.shape is None or dataset.ndim != rank:
        raise CacheFormatError(
            f"/{name} has the shape {dataset.shape}, and should have {rank} axes"
        )
    if form.widths and dataset.shape[1] not in form.widths:
        raise CacheFormatError(f"/{name} has {dataset.shape[1]} columns, not {form.widths[0]}")
    if not any(_is_of(dataset, kind) for kind in form.types):
        wanted = " or ".join(form.types)
        raise CacheFormatError(f"/{name} holds {dataset.dtype}, and should hold {wanted}")
    length = lengths.setdefault(form.length, dataset.shape[0])
    if dataset.shape[0] != length:
        raise CacheFormatError(f"/{name} has {dataset.shape[0]} values for {length} {form.length}")


def _require_labels(file: h5py.File, lengths: dict[str, int]) -> None:
    labels, classes = file["labels"], lengths.get("classes")
    if labels.shape is None or labels.shape[:1] != (lengths["rows"],) or labels.ndim > 2:
        raise CacheFormatError(f"/labels has {labels.shape} values for {lengths['rows']} rows")
    if classes is None:
        if labels.ndim != 1 or labels.dtype.kind != "f":
            raise CacheFormatError(
                f"/labels holds {labels.dtype} without /classes; numbers for a regression are float"
            )
    elif labels.dtype.kind != "i":
        raise CacheFormatError(f"/labels holds {labels.dtype}, and should hold codes of classes")
    elif labels.ndim == 2 and labels.shape[1] != classes:
        raise CacheFormatError(f"/labels has {labels.shape[1]} columns for {classes} classes")


def is_text(dataset: Any) -> bool:
    """Tell whether a dataset holds text, of fixed length or not."""
    return h5py.check_string_dtype(dataset.dtype) is not None


def _is_of(dataset: Any, kind: str) -> bool:
    if kind == "text":
        return is_text(dataset)
    if kind in _NUMBERS:
        return bool(dataset.dtype.kind == kind[0])
    return bool(dataset.dtype == np.dtype(kind))
