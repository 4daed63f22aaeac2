"""Notices about the pictures of a run before it embeds them, by a sample of all over the source."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featx.errors import ImageError
from featx.extraction.threads import spread
from featx.images import DecodePolicy
from featx.images.looking import DeepValues, look
from featx.items import Manifest
from featx.sources.folder import extra_notice

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
