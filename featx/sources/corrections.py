"""Labels in a file of their own: corrections by id, over what the source says."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from featx.errors import SourceError
from featx.labels import SEPARATOR, Labels
from featx.manifest import Manifest
from featx.portion import WHOLE, Dealing
from featx.sources.columns import table_labels, table_text
from featx.sources.tables import read_table


@dataclass(frozen=True)
class Corrections:
    """Labels by id, and the file that they came from.

    Parameters
    ----------
    labels
        ``id -> label``; None takes a label away.
    file
        Its name.
    sha256
        Of its bytes, in hexadecimal.
    """

    labels: dict[str, str | None]
    file: str
    sha256: str


def read_corrections(path: Path) -> Corrections:
    """Read a table with the columns ``id`` and ``label``; text stays as it is written.

    Raises
    ------
    SourceError
        If it is not such a table, or an id stands in it twice.
    """
    if not path.is_file():
        raise SourceError(f"labels {path}: no such file")
    frame = read_table(str(path), Dealing(WHOLE)).frame
    if missing := [name for name in ("id", "label") if name not in frame.columns]:
        raise SourceError(
            f"labels {path} has no column `{missing[0]}` (it has "
            f"{', '.join(map(str, frame.columns)) or 'none'}); write a table with id and label"
        )
    ids = list(table_text(str(path), frame, "id"))
    given = table_labels(str(path), frame)
    labels: dict[str, str | None] = {}
    for name, label in zip(ids, [] if given is None else given, strict=True):
        if name in labels:
            raise SourceError(f"labels {path}: id {name!r} stands in it twice")
        labels[name] = SEPARATOR.join(label) or SEPARATOR if isinstance(label, tuple) else label
    return Corrections(labels, str(path), hashlib.sha256(path.read_bytes()).hexdigest())


def corrected(manifest: Manifest, fixes: Corrections) -> tuple[Manifest, int]:
    """Put corrected labels over those of a source; nothing of the source is changed.

    Returns
    -------
    manifest : with the labels of `fixes` where it has some
    changed : how many labels are others than before

    Raises
    ------
    SourceError
        If a correction is for an id that the source does not have, or labels are numbers.
    """
    place = {name: k for k, name in enumerate(manifest.ids)}
    unknown = [n for n in fixes.labels if n not in place and n not in manifest.refused]
    if unknown and manifest.dealt is None:
        raise SourceError(
            f"labels {fixes.file} names {len(unknown)} ids that {manifest.name} does not have, "
            f"first {unknown[0]!r}; `featx info` and featx.open_cache(...).ids show ids"
        )
    before = manifest.labels
    if isinstance(before, np.ndarray):
        raise SourceError(
            f"labels of {manifest.name} are numbers; correct them in the table itself"
        )
    labels: list[str | None] = [None] * len(manifest)
    if before is not None:
        labels = [_text(label) for label in before]
    changed = 0
    for name, label in fixes.labels.items():
        at = place.get(name)
        if at is not None and labels[at] != label:
            labels[at], changed = label, changed + 1
    return replace(manifest, labels=_as_given(labels)), changed


def _text(label: str | tuple[str, ...] | None) -> str | None:
    return SEPARATOR.join(label) or SEPARATOR if isinstance(label, tuple) else label


def _as_given(labels: list[str | None]) -> Labels:
    from featx.labels import split_labels

    return split_labels(labels) or labels
