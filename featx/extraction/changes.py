"""Changes since the last run: the manifest compared with the rows that exist."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featx.cache.cache import open_cache
from featx.cache.format import row_blocks
from featx.cache.ids import KEY_DTYPE, KeyTable, keys_of
from featx.cache.publish import Description, describes
from featx.cache.reuse import KnownRows, rows_by_id
from featx.cache.staging import parts_folder
from featx.columns import pick
from featx.errors import CacheMismatchError, ImageError, PassingReason
from featx.extraction.threads import Outcome, spread
from featx.images import DecodePolicy, decode
from featx.images.pages import DeepValues, digest_bytes, look
from featx.items import Manifest
from featx.labels import encode_labels
from featx.preprocess import Preprocess
from featx.sources.folder import extra_notice
from featx.sources.paths import LIST

if TYPE_CHECKING:
    from featx.cache.reuse import KnownRows
    from featx.extraction.run import Run
    from featx.spec import ExtractSpec


log = logging.getLogger("featx")

SAMPLE_IMAGES = 32
_LEAST_LEVELS = 64  # of 256: fewer, and it is said
_MOST_USED_BITS = 14  # a picture of 16 bits that uses 15 loses one bit of eight: not worth a word


def say_of_pictures(manifest: Manifest, items: NDArray[np.int64], policy: DecodePolicy) -> None:
    """Log what an extra would read, and what the decode policy makes of a sample of the pictures.

    Parameters
    ----------
    items
        Numbers of the items that are going to be read, int64 of shape (n,).
    """
    if (notice := extra_notice(manifest.ignored_by_extension)) is not None:
        log.warning(notice)
    deep, nameless, looked = [], 0, 0
    for item in items[spread(len(items), SAMPLE_IMAGES)].tolist():
        try:
            data, _ = manifest.read(item)
        except ImageError:
            continue
        found = look(data, manifest.page(item))
        looked += 1
        deep += [found.deep] if found.deep else []
        nameless += found.nameless
    if deep and policy.bits is None and (text := range_notice(deep, looked)):
        log.warning(text)
    if nameless and policy.bands is None:
        log.warning(
            f"{nameless} of {looked} pictures looked at have three bands and do not say which are "
            "red, green and blue: they are taken in this order; pass --bands 3,2,1 for another"
        )


def say_of_pages(left: Sequence[int]) -> None:
    """Warn of pages and frames that were not read: for each such file, how many."""
    if left:
        log.warning(
            "%d files have several pages or frames: the first of each was read, %d were not; pass "
            "--pages all for a row each",
            len(left),
            sum(left),
        )


def range_notice(deep: Sequence[DeepValues], looked: int) -> str | None:
    """Say of deep pictures that their values use a part of their range, and name the way out.

    Returns
    -------
    text
        None where at least 64 of 256 grey levels are left of the values.

    Examples
    --------
    >>> range_notice([DeepValues(65535, 0, 4080)], 8).endswith("pass --bits 12 if they use 12 bits")
    True
    >>> range_notice([DeepValues(65535, 0, 60000)], 8)
    """
    white = max(values.white for values in deep)
    alike = [values for values in deep if values.white == white]
    low, high = min(v.low for v in alike), max(v.high for v in alike)
    levels = int((high - low) / white * 255) + 1
    bits = max(9, int(high).bit_length())
    if levels > _LEAST_LEVELS or high > white:
        return None
    text = (
        f"{len(alike)} of {looked} pictures looked at have values of {low:g} to {high:g} where "
        f"{white:g} is white: at most {levels} of 256 grey levels are left of them"
    )
    if low >= 0 and bits <= _MOST_USED_BITS:
        return f"{text} (they look dark); pass --bits {bits} if they use {bits} bits"
    return f"{text} (little contrast); scale them to the whole range first if this is not meant"


@dataclass
class Changes:
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
        >>> Changes(new=2, removed=1).describe()
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
) -> Changes:
    """Count what is new, changed, renamed, unchanged and removed against the cache in place.

    A new name is a renamed file when its content is that of a name that is gone. It needs 33 bytes
    a row of the cache in place, and 16 more for each that is gone or new.
    """
    before = KeyTable(KEY_DTYPE.itemsize) if cache is None else rows_by_id(cache)
    gone, found = np.ones(len(before), bool), Changes(damaged=damaged)
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


_MOST = 256  # images without a row that are looked at once more


def unchanged(run: Run, old: ExtractSpec | None) -> Outcome | None:
    """Find that the cache in place is complete; None where there may be work.

    Parameters
    ----------
    run
        With its images listed.
    old
        The spec of the cache in place.
    """
    if old is None or run.options.force or parts_folder(run.cache).exists():
        return None
    try:
        return _nothing_to_do(run, old) if run.recall(old) else None
    finally:
        run.record = None


def _nothing_to_do(run: Run, old: ExtractSpec) -> Outcome | None:
    spec = run.spec(run.planned_precision)
    if spec.fingerprint != old.fingerprint:
        return None
    known = run.known(spec, in_place=True)
    if known.damaged:
        return None
    outcome = Outcome(untouched_content(run.manifest, known))
    pending = np.flatnonzero(outcome.content == b"")
    if len(pending) > _MOST or not _fail_again(run, pending.tolist(), outcome, known, spec):
        return None
    rows = np.flatnonzero(outcome.content != b"")
    if not len(rows):
        return None
    described = describe_rows(run.manifest, rows, run.failures(outcome))
    if not describes(described, run.cache) or not run.dealt_alike():
        return None
    outcome.reused = len(rows)
    say_of_pictures(run.manifest, pending, run.decode)
    run.check_labels(described, pick(outcome.content, rows))
    return outcome


def _fail_again(
    run: Run, pending: list[int], outcome: Outcome, known: KnownRows, spec: ExtractSpec
) -> bool:
    """Read what is not known by its name; True if all of it has a row, or fails again."""
    need = min(Preprocess.from_dict(spec.preprocess).resize_size)
    for item in pending:
        page = run.manifest.page(item)
        try:
            data, _ = run.manifest.read(item)
            key = keys_of([digest_bytes(data, page)])
            if not known.has(key)[0]:
                decode(data, run.decode, need, page)
                return False
            outcome.content[item] = key[0]
        except ImageError as error:
            outcome.failed[item] = str(error)
    n_failed, limit = len(outcome.failed), run.options.max_failed
    stops = run.options.on_error == "fail" or (limit is not None and n_failed > limit)
    return not (n_failed and stops)


def require_no_others(run: Run) -> None:
    """Refuse one picture if the cache in place has rows of others: the user means to add it.

    Raises
    ------
    CacheMismatchError
        With the number of rows that the run would drop.
    """
    is_named = isinstance(run.source, (str, os.PathLike))
    if run.options.force or not is_named or run.manifest.name != LIST:
        return
    with open_cache(run.cache) as found:
        others = len(found) - (run.manifest.ids[0] in set(found.ids))
    if others:
        raise CacheMismatchError(
            f"{run.source} is one picture, and {run.cache} holds {others} rows of others, which "
            "would go; name another cache, extract the folder that holds all, or pass --force"
        )
