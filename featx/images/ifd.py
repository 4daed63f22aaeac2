"""The pages of a TIFF, counted without decoding any: a walk along its directories."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from featx.errors import ImageError

_MOST_PAGES = 100_000
_SUBFILE_TYPE, _SHORT = 254, 3
_REDUCED, _MASK = 1, 4  # bits of the subfile type: a smaller copy, a mask of another page


def picture_pages(data: bytes) -> list[int]:
    """Numbers, from 0, of the directories that hold pictures of their own.

    Smaller copies and masks of other pages are left out; if there is nothing else, the first
    directory counts.

    Raises
    ------
    ImageError
        If there is none, or more than 100,000.
    """
    kinds = list(_subfile_types(data))
    if not kinds:
        raise ImageError("damaged or cut off: a TIFF without pages")
    return [k for k, kind in enumerate(kinds) if not kind & (_REDUCED | _MASK)] or [0]


def _subfile_types(data: bytes) -> Iterator[int]:
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    offset, count, entry = ("Q", "Q", 20) if big else ("I", "H", 12)
    at, seen = _number(data, order + offset, 8 if big else 4), set[int]()
    while at and at not in seen:
        seen.add(at)
        if len(seen) > _MOST_PAGES:
            raise ImageError(f"a TIFF of more than {_MOST_PAGES:,} pages")
        try:
            n_entries = _number(data, order + count, at)
            first = at + struct.calcsize(order + count)
            following = _number(data, order + offset, first + n_entries * entry)
        except struct.error:
            if len(seen) == 1:
                raise ImageError("damaged or cut off: its first page is missing") from None
            return
        yield _subfile_type(data, order, big, range(first, first + n_entries * entry, entry))
        at = following


def _subfile_type(data: bytes, order: str, big: bool, places: range) -> int:
    """Value of the tag, which is among the first: tags are sorted."""
    for place in places[:4]:
        if _number(data, order + "H", place) == _SUBFILE_TYPE:
            short = _number(data, order + "H", place + 2) == _SHORT
            return _number(data, order + ("H" if short else "I"), place + (12 if big else 8))
    return 0


def _number(data: bytes, code: str, at: int) -> int:
    if at > len(data):  # may be larger than what struct takes as a place
        raise struct.error
    return int(struct.unpack_from(code, data, at)[0])
