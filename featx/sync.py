"""What a run has to do: compare the manifest with the rows that exist, and name the difference."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from featx.cache.assemble import Description
from featx.cache.format import CONTENT_DTYPE
from featx.cache.known import KnownRows
from featx.cache.reader import open_cache
from featx.labels import Names, class_order, indicator
from featx.manifest import Labels, Manifest


@dataclass
class Difference:
    """Items by what happened to them since the cache in place was written."""

    new: int = 0
    changed: int = 0
    renamed: int = 0
    unchanged: int = 0
    removed: int = 0
    damaged: int = 0

    def describe(self) -> str:
        """One line for the log.

        Examples
        --------
        >>> Difference(new=2, removed=1).describe()
        '2 new, 1 removed'
        """
        parts = [f"{count} {name}" for name, count in vars(self).items() if count]
        return ", ".join(parts) or "no difference"


def untouched_content(manifest: Manifest, known: KnownRows) -> NDArray[np.bytes_]:
    """Digest of each item whose id, size and time of change are those of a finished row.

    Returns
    -------
    content : S64, shape (n,)
        Empty where the item has to be read: its content decides.
    """
    content = np.zeros(len(manifest), CONTENT_DTYPE)
    if manifest.stamps is not None and len(known):
        for item, name in enumerate(manifest.ids):
            content[item] = known.untouched(name, manifest.stamps[item])
    return content


def difference(
    manifest: Manifest, content: NDArray[np.bytes_], cache: Path | None, damaged: int = 0
) -> Difference:
    """Count what is new, changed, renamed, unchanged and removed against the cache in place.

    A new name is a renamed file when its content is that of a name that is gone.
    """
    before: dict[str, bytes] = {}
    if cache is not None:
        with open_cache(cache) as old:
            before = dict(zip(old.ids, old.content_digests.tolist(), strict=True))
    here = set(manifest.ids) | set(manifest.refused)
    gone = Counter(digest for name, digest in before.items() if name not in here)
    found = Difference(removed=gone.total(), damaged=damaged)
    for name, digest in zip(manifest.ids, content.tolist(), strict=True):
        if not digest:
            continue
        if name in before:
            found.unchanged += before[name] == digest
            found.changed += before[name] != digest
        elif gone[digest] > 0:
            gone[digest] -= 1
            found.renamed += 1
            found.removed -= 1
        else:
            found.new += 1
    return found


def describe_rows(
    manifest: Manifest, rows: NDArray[np.int64], failed: dict[str, str]
) -> Description:
    """Pick what a cache says about its rows, given as items of the manifest."""
    picked = rows.tolist()
    labels, classes = _encode(manifest.labels)
    return Description(
        ids=[manifest.ids[i] for i in picked],
        paths=[manifest.paths[i] for i in picked],
        labels=None if labels is None else labels[rows],
        classes=classes,
        split=None if manifest.split is None else [manifest.split[i] for i in picked],
        columns={name: values[rows] for name, values in manifest.columns.items()},
        failed=failed,
    )


def _encode(labels: Labels | None) -> tuple[NDArray[Any] | None, list[str] | None]:
    """Class names become codes into their sorted list, -1 where missing; numbers stay.

    Where rows have several labels, each class becomes a column.
    """
    if labels is None or isinstance(labels, np.ndarray):
        return labels, None
    if any(isinstance(label, tuple) for label in labels):
        several = cast("list[Names | None]", labels)
        classes = sorted({name for names in several for name in names or ()}, key=class_order)
        return indicator(several, classes), classes
    single = cast("list[str | None]", labels)
    classes = sorted({label for label in single if label is not None}, key=class_order)
    code = {name: k for k, name in enumerate(classes)}
    return np.array([-1 if la is None else code[la] for la in single], np.int32), classes
