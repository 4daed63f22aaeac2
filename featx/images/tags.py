"""The tags of TIFF and Exif: bounds on what one directory may ask a reader to load."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from featx.errors import ImageError

_HEADERS = {
    b"II*\0": ("<", False),
    b"MM\0*": (">", False),
    b"II+\0": ("<", True),
    b"MM\0+": (">", True),
    b"II\0*": ("<", False),  # two that are wrong and that Pillow reads all the same
    b"MM*\0": (">", False),
}
_MOST_TAGS = 4096  # of one directory; cameras and scanners write fewer than 200
_MOST_NUMBERS = 2_000_000  # in one directory: each becomes a Python object
_MOST_PADDING = 16_000_000  # pixels by which tiles may go beyond the picture
_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323
_SHAPE = {_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT}


@dataclass
class _Directory:
    """The first directory of a TIFF structure."""

    n_tags: int = 0
    n_bytes: int = 0
    n_numbers: int = 0
    shape: dict[int, int] = field(default_factory=dict)


def check_tags(data: bytes) -> None:
    """Bound the first directory of each TIFF structure in `data`, wherever it begins.

    Exif lies in many formats, and its tags may all point to the same bytes: a megabyte then
    becomes gigabytes.

    Raises
    ------
    ImageError
        Naming what a directory asks for.
    """
    for header in _HEADERS:
        at = data.find(header)
        while at >= 0:
            _check(_read(data, at), len(data))
            at = data.find(header, at + 1)


def check_tiff(data: bytes) -> None:
    """Bound the first directory of a TIFF file, and tiles that are far larger than the picture.

    Raises
    ------
    ImageError
        Naming what the file asks for.
    """
    if data[:4] not in _HEADERS:
        return
    directory = _read(data, 0)
    _check(directory, len(data))
    shape = directory.shape
    width, height = shape.get(_WIDTH, 0), shape.get(_HEIGHT, 0)
    tile = shape.get(_TILE_WIDTH, 1), shape.get(_TILE_HEIGHT, 1)
    padded = -(-width // max(1, tile[0])) * tile[0] * (-(-height // max(1, tile[1])) * tile[1])
    if padded > 2 * width * height + _MOST_PADDING:
        raise ImageError(f"tiles of {tile[0]}x{tile[1]} pixels in a picture of {width}x{height}")


def tiff_pixels(data: bytes) -> int:
    """Count the pixels that the first directory of a TIFF file announces; 0 if it does not say."""
    shape = _read(data, 0).shape if data[:4] in _HEADERS else {}
    return shape.get(_WIDTH, 0) * shape.get(_HEIGHT, 0)


def _check(directory: _Directory, size: int) -> None:
    if directory.n_tags > _MOST_TAGS:
        raise ImageError(f"{directory.n_tags} tags in one directory; at most {_MOST_TAGS} are read")
    if directory.n_bytes > 2 * size + 65_536:
        raise ImageError(f"tags that claim {directory.n_bytes} bytes of a file of {size}")
    if directory.n_numbers > _MOST_NUMBERS:
        raise ImageError(f"tags of {directory.n_numbers} numbers; at most {_MOST_NUMBERS} are read")


def _read(data: bytes, start: int) -> _Directory:
    """Sum up the first directory of the TIFF structure that begins at `start`."""
    order, big = _HEADERS[data[start : start + 4]]
    word, count = (order + "Q", order + "Q") if big else (order + "L", order + "H")
    entry, inline = struct.Struct(f"{order}HH{word[1]}{word[1]}"), struct.calcsize(word)
    found = _Directory()
    try:
        at = start + struct.unpack_from(word, data, start + (8 if big else 4))[0]
        (found.n_tags,) = struct.unpack_from(count, data, at)
        at += struct.calcsize(count)
        for k in range(min(found.n_tags, _MOST_TAGS)):
            tag, kind, n, value = entry.unpack_from(data, at + k * entry.size)
            size = n * _SIZES.get(kind, 1)
            if tag in _SHAPE and size <= inline:
                found.shape[tag] = _inline_value(value, kind, order, inline)
            if inline < size <= len(data) - start - value:
                found.n_bytes += size
                found.n_numbers += n * (kind in _SIZES)
    except (struct.error, OverflowError):
        pass  # cut off, or not a directory at all: nothing more can be loaded
    return found


def _inline_value(value: int, kind: int, order: str, inline: int) -> int:
    """Give the number that stands where the offset of a long value would stand."""
    used = min(inline, _SIZES.get(kind, 1))
    raw = value.to_bytes(inline, "little" if order == "<" else "big")[:used]
    return int.from_bytes(raw, "little" if order == "<" else "big")
