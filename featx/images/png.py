"""PNG of 16 bits by libpng, which gets the chunks that hold pixels and no others.

libpng writes what it remarks on to the terminal: of profiles, of texts, of damaged data. So the
checksums are looked at first.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import imagecodecs
import numpy as np

from featx.errors import ImageError
from featx.images.samples import Samples

_MAGIC = b"\x89PNG\r\n\x1a\n"
_DEPTH = 24  # place of the bits of a sample
_NEEDED = (b"IHDR", b"IDAT", b"IEND")
_BLOCK = 1 << 20


def is_deep_png(data: bytes) -> bool:
    """Tell a PNG of 16 bits by its header."""
    return data[:8] == _MAGIC and data[_DEPTH : _DEPTH + 1] == b"\x10"


def read_deep_png(data: bytes) -> Samples:
    """Read the samples of a PNG of 16 bits: uint16, shape (height, width, 1 to 4).

    Raises
    ------
    ImageError
        If its data are damaged or cut off.
    """
    chunks = list(_chunks(data))
    _require_whole(chunks)
    found = imagecodecs.png_decode(_MAGIC + b"".join(chunk for kind, chunk in chunks))
    return np.atleast_3d(found)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give the kind and the bytes of each chunk that is needed."""
    at = 8
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if kind in _NEEDED:
            check = int.from_bytes(data[end - 4 : end], "big")
            if end > len(data) or zlib.crc32(data[at + 4 : end - 4]) != check:
                raise ImageError("damaged or cut off: the checksum of its pixels is wrong")
            yield kind, data[at:end]
        if kind == b"IEND":
            return
        at = end
    raise ImageError("cannot be decoded: the file is cut off")


def _require_whole(chunks: list[tuple[bytes, bytes]]) -> None:
    stream = zlib.decompressobj()
    try:
        for kind, chunk in chunks:
            rest = chunk[8:-4] if kind == b"IDAT" else b""
            while rest and not stream.eof:
                stream.decompress(rest, _BLOCK)
                rest = stream.unconsumed_tail
        while not stream.eof and stream.decompress(b"", _BLOCK):
            pass
    except zlib.error as error:
        raise ImageError(f"cannot be decoded: {error}") from None
    if not stream.eof:
        raise ImageError("cannot be decoded: its pixels are cut off")
