"""What a run has to do: compare the manifest with the rows that exist, and name the difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featx.cache.assemble import Description
from featx.cache.format import row_blocks
from featx.cache.keys import KEY_DTYPE, KeyTable, keys_of
from featx.cache.known import KnownRows, rows_by_id
from featx.errors import PassingReason
from featx.labels import encode_labels
from featx.manifest import Manifest
from featx.sources.picked import pick


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
    """Key of the content of each item whose id, size and time are those of a finished row.

    Returns
    -------
    content : `KEY_DTYPE`, shape (n,)
        Empty where the item has to be read: its content decides.
    """
    if manifest.stamps is None:
        return np.zeros(len(manifest), KEY_DTYPE)
    return known.untouched(manifest.ids, manifest.stamps)


def difference(
    manifest: Manifest, content: NDArray[np.bytes_], cache: Path | None, damaged: int = 0
) -> Difference:
    """Count what is new, changed, renamed, unchanged and removed against the cache in place.

    A new name is a renamed file when its content is that of a name that is gone. It needs 33 bytes
    a row of the cache in place, and 16 more for each that is gone or new.
    """
    before = KeyTable(KEY_DTYPE.itemsize) if cache is None else rows_by_id(cache)
    gone, found = np.ones(len(before), bool), Difference(damaged=damaged)
    new = [np.empty(0, KEY_DTYPE)]
    for items in row_blocks(len(manifest)):
        at, there = before.find(keys_of(name.encode() for name in manifest.ids[items]))
        gone[at[there]] = False
        done, digests = content[items] != b"", content[items]
        same = before.values(at[there & done]).view(KEY_DTYPE)[:, 0] == digests[there & done]
        found.unchanged += int(same.sum())
        found.changed += int((~same).sum())
        new.append(digests[done & ~there])
    at, there = before.find(keys_of(name.encode() for name in manifest.refused))
    gone[at[there]] = False
    left = before.values(gone).view(KEY_DTYPE)[:, 0]
    came = np.concatenate(new)
    found.renamed = _in_common(left, came)
    found.removed, found.new = len(left) - found.renamed, len(came) - found.renamed
    return found


def _in_common(some: NDArray[np.bytes_], others: NDArray[np.bytes_]) -> int:
    """Number of pairs that can be made of equal keys."""
    keys, counts = np.unique(some, return_counts=True)
    others, again = np.unique(others, return_counts=True)
    _, at, place = np.intersect1d(keys, others, assume_unique=True, return_indices=True)
    return int(np.minimum(counts[at], again[place]).sum())


def kept_rows(
    manifest: Manifest, failed: Mapping[int, str], cache: Path | None, known: KnownRows
) -> dict[int, bytes]:
    """Find the rows that items have whose files cannot be read now: they are not dropped.

    Parameters
    ----------
    failed
        ``item -> reason``; only a `PassingReason` counts.
    cache
        The cache in place.

    Returns
    -------
    kept : item -> key of the content of its row
    """
    items = [item for item, why in failed.items() if isinstance(why, PassingReason)]
    if cache is None or not items:
        return {}
    before = rows_by_id(cache)
    at, there = before.find(keys_of(manifest.ids[item].encode() for item in items))
    keys = before.values(at[there]).view(KEY_DTYPE)[:, 0]
    found = [item for item, has in zip(items, there.tolist(), strict=True) if has]
    sound = known.has(keys)
    return {item: key for item, key, good in zip(found, keys, sound, strict=True) if good}


def kept_text(kept: Mapping[int, bytes], manifest: Manifest, failed: Mapping[int, str]) -> str:
    """Say which rows are kept unread; nothing where none is."""
    if not kept:
        return ""
    first = min(kept)
    return (
        f"{len(kept)} images cannot be read now and keep their rows, the first "
        f"{manifest.ids[first]}: {failed[first]}; run the same command again"
    )


def describe_rows(
    manifest: Manifest, rows: NDArray[np.int64], failed: dict[str, str]
) -> Description:
    """Pick what a cache says about its rows, given as items of the manifest in ascending order."""
    labels, classes = encode_labels(manifest.labels)
    return Description(
        ids=pick(manifest.ids, rows),
        paths=pick(manifest.paths, rows),
        labels=None if labels is None else pick(labels, rows),
        classes=classes,
        split=None if manifest.split is None else pick(manifest.split, rows),
        columns={name: pick(values, rows) for name, values in manifest.columns.items()},
        failed=failed,
    )
