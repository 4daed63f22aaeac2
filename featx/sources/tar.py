"""Tar files as `webdataset` writes them: members with one key are one sample."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featx.columns import Prefixed, Text
from featx.errors import SourceError, shown
from featx.items import Manifest, Note, SourceOptions, Stamp, note, printable
from featx.labels import SEPARATOR
from featx.slices import SliceCounter
from featx.sources.containers import (
    Container,
    container_of,
    deal_files,
    gather,
    item_ids,
    row_stamps,
)
from featx.sources.fields import (
    almost_meant,
    named_splits,
    table_columns,
    table_labels,
    table_split,
    without,
)
from featx.sources.folder import FirstFolders, labels_and_split
from featx.sources.places import Parts
from featx.sources.tarindex import BESIDE, NOT_UTF_8, NOTES, UNUSED, TarIndex, index_tar
from featx.typing import JsonObject

_AS_WRITTEN: JsonObject = dict.fromkeys(("parse_int", "parse_float", "parse_constant"), str)
_ODD = {
    BESIDE: "{count} pictures, the first {first}, are passed over: what stands before the first "
    "dot of a name is its key, and each is taken to be about the picture of the same key; write no "
    "second dot, or a label beside it, if it is an image of its own",
    UNUSED: "{count} labels, the first {first}, are of no picture: name each as its picture, but "
    "for the extension",
    NOT_UTF_8: "{count} texts beside pictures, the first {first}, are read as Windows-1252, not "
    "UTF-8; check names with accents",
}
_UNREAD = "tar-json-unread"


@dataclass(frozen=True)
class ReadMembers:
    """Read the bytes of a member where its tar holds them; nothing is unpacked.

    Parameters
    ----------
    containers
        The tars.
    starts
        int64: number of the first item of each tar.
    offsets, sizes
        int64: where the bytes of each item lie in its tar.
    """

    containers: tuple[Container, ...]
    starts: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    parts: Parts = field(default_factory=Parts, repr=False)

    def __call__(self, item: int) -> tuple[bytes, Stamp]:
        """Give the bytes of an item and the stamp of its tar."""
        container = self.containers[container_of(self.starts, item)]
        offset, size = int(self.offsets[item]), int(self.sizes[item])
        return self.parts.read(container.place, offset, size, container.stamp), container.stamp


def from_tars(
    name: str,
    base: str,
    containers: Sequence[Container],
    options: SourceOptions,
    ignored: Counter[str] | None = None,
) -> Manifest:
    """Take the images of the tars of a slice, in their order.

    Parameters
    ----------
    name
        How the source was named.
    base
        The folder of the tars as it is shown, with a slash at its end.

    Raises
    ------
    SourceError
        If there is no image in any of them; a slice may have none.
    """
    dealing = SliceCounter(options.slice_)
    found = gather(
        deal_files(containers, dealing),
        lambda container: index_tar(container.place, container.stamp),
    )
    refused = dict(found.refused)
    for container, index in found.pairs:
        refused |= {f"{container.name}/{key}": why for key, why in index.refused.items()}
    counts = [len(index.table) for _, index in found.pairs]
    if not sum(counts) and not refused and options.slice_.is_whole:
        raise SourceError(f"{name} holds no images: no member of its tars has an image extension")
    ids = item_ids([(s, Text(i.table["name"])) for s, i in found.pairs])
    told, unread = _notes([index for _, index in found.pairs], ids)
    notes = without(told, options.missing)
    kept = tuple(container for container, _ in found.pairs)
    labels = table_labels(name, notes)
    split = table_split(name, notes) or named_splits(
        [s.name for s in kept], counts, (s.name for s in containers)
    )
    if labels is None:
        # Behind the way that a name may begin with: /data/cat/1.png, ../cat/1.png.
        keys = [key.lstrip("./") for _, i in found.pairs for key in Text(i.table["name"])]
        labels, laid_out = labels_and_split(keys, FirstFolders().of(keys))
        split = split or laid_out
    return Manifest(
        name=name,
        ids=ids,
        paths=Prefixed(base, ids),
        read=ReadMembers(
            kept,
            np.cumsum([0, *counts], dtype=np.int64)[:-1],
            _numbers([index for _, index in found.pairs], "offset"),
            _numbers([index for _, index in found.pairs], "size"),
        ),
        labels=labels,
        split=split,
        columns=table_columns(name, notes),
        stamps=row_stamps(kept, counts),
        refused=refused,
        ignored_by_extension=dict(
            sum((index.ignored for _, index in found.pairs), ignored or Counter())
        ),
        notes=(
            *_odd([index for _, index in found.pairs]),
            *unread,
            *almost_meant(name, notes, (container.name for container in containers)),
        ),
        dealt=dealing.dealt,
    )


def _odd(indices: Sequence[TarIndex]) -> tuple[Note, ...]:
    """Say of names with several dots whose pictures or labels were passed over."""
    found: dict[str, tuple[int, str]] = {}
    for index in indices:
        for code, (count, first) in index.odd.items():
            before, name = found.get(code, (0, first))
            found[code] = (before + count, name)
    return tuple(
        note(code, _ODD[code].format(count=count, first=ascii(first)))
        for code, (count, first) in found.items()
    )


def _numbers(indices: Sequence[TarIndex], column: str) -> NDArray[np.int64]:
    arrays = [index.table[column].to_numpy() for index in indices]
    return np.concatenate([np.empty(0, np.int64), *arrays])


def _notes(indices: Sequence[TarIndex], ids: Sequence[str]) -> tuple[pd.DataFrame, list[Note]]:
    """Turn the members beside the images into a table with, where they tell it, a label.

    The label is ``.cls``, else the field ``label`` of ``.json``, else ``.txt``.

    Parameters
    ----------
    ids
        Of the images, for messages.
    """
    found: dict[str, list[Any]] = {}
    texts = {note: [t for i in indices for t in i.table[note].to_pylist()] for note in NOTES}
    unread = []
    for row, text in enumerate(texts["json"]):
        fields = _fields(text)
        if fields is None:
            unread.append(ids[row])
            continue
        for field_name, value in fields.items():
            name = printable(field_name.replace("/", "."))
            found.setdefault(name, [None] * len(texts["json"]))[row] = value
    if any(text is not None for text in texts["cls"]):
        found["label"] = texts["cls"]
    elif "label" in found:
        found["label"] = [_label(v, name) for v, name in zip(found["label"], ids, strict=True)]
    if any(text is not None for text in texts["txt"]):
        found["txt" if "label" in found else "label"] = texts["txt"]
    table = pd.DataFrame({column: pd.Series(v, dtype=object) for column, v in found.items()})
    return table, _unread(unread)


def _unread(names: Sequence[str]) -> list[Note]:
    if not names:
        return []
    text = (
        f"the .json of {len(names)} pictures, the first {names[0]!a}, is not a JSON object with "
        "fields; it is passed over, and with it a label that it may hold"
    )
    return [note(_UNREAD, text)]


def _fields(text: str | None) -> JsonObject | None:
    """Fields of a sample's JSON, numbers as they are written; None of what has no fields.

    What is nested stays JSON text, but for the label: a list of names, or what is refused later.
    """
    if text is None:
        return {}
    try:
        found, literal = json.loads(text), json.loads(text, **_AS_WRITTEN)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        label = _field(found, literal)
        return {"label": label} if isinstance(found, (str, int, float)) else None
    return {
        str(name): (_label_field if name == "label" else _field)(value, literal[name])
        for name, value in found.items()
        if str(name).strip(". ")
    }


def _field(value: object, literal: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (bool, dict, list)):
        return json.dumps(value)
    return str(literal)


def _label_field(value: object, literal: object) -> Any:
    """Give a label as text; names in a list as a list, anything else that is nested as it is."""
    if not isinstance(value, list):
        return value if isinstance(value, dict) else _field(value, literal)
    whole = all(isinstance(one, (str, int)) and not isinstance(one, bool) for one in value)
    return literal if whole else value


def _label(value: Any, name: str) -> str | None:
    """Write the names of a list as a table does, ``a|b``; a bar alone says that there are none."""
    if value is None or isinstance(value, str):
        return value
    names: list[Any] = value if isinstance(value, list) else [None]
    if not all(isinstance(one, str) and one.strip() and SEPARATOR not in one for one in names):
        raise SourceError(
            f"{name}: its .json has the label {shown(json.dumps(value))}; expected a name, a "
            f"number, or a list of names without {SEPARATOR!r}"
        )
    return SEPARATOR.join(names) or SEPARATOR
