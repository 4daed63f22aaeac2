"""Pages or frames of a file, and narrow ranges of values: seen before anything is embedded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from featx.errors import ImageError
from featx.images.decoding import is_deep_png, read_deep_png
from featx.images.formats import MAX_PIXELS, open_image
from featx.images.policy import DEFAULT_POLICY, Samples, white_of
from featx.images.tags import check_tiff
from featx.images.tiff import is_tiff, picture_pages, read_tiff

MOST_PAGES = 100_000
"""Of one file."""

_PAGE = re.compile(r"(.+)#([1-9]\d{0,5})", re.DOTALL)

_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avis")


def digest_bytes(data: bytes, page: int = 0) -> bytes:
    """SHA-256 of the bytes of an image file, in hexadecimal: its row's key.

    The key of a later page is the digest of the file's and the page's number, from 1.
    """
    found = hashlib.sha256(data).hexdigest()
    if page:
        found = hashlib.sha256(f"{found}#{page + 1}".encode()).hexdigest()
    return found.encode()


def split_page(name: str) -> tuple[str, int]:
    """Split the id of a page into that of its file and the page, from 0.

    Examples
    --------
    >>> split_page("a/x.tif#3"), split_page("a/x.tif")
    (('a/x.tif', 2), ('a/x.tif', 0))
    """
    found = _PAGE.fullmatch(name)
    return (found[1], int(found[2]) - 1) if found else (name, 0)


def page_of_row(data: bytes, name: str, digest: bytes) -> int | None:
    """Find which page of a file a row is; None where the file is another than it was.

    Parameters
    ----------
    data
        The file as it is now.
    name
        The row's id.
    digest
        The row's key, as `digest_bytes` gave it.
    """
    pages = dict.fromkeys((0, split_page(name)[1]))
    return next((page for page in pages if digest_bytes(data, page) == digest), None)


def page_count(data: bytes) -> int:
    """Count the pages of a TIFF, or the frames of a GIF, PNG, WebP, AVIF or HEIC; else 1.

    Smaller copies in a TIFF, and the further pictures that cameras put into a JPEG, do not count.

    Raises
    ------
    ImageError
        If it is damaged, or has more than `MOST_PAGES`.
    """
    if is_tiff(data):
        n_pages = len(picture_pages(data))
    elif data[:4] == b"GIF8":
        n_pages = sum(1 for _ in _gif_frames(data))
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        n_pages = _count_png(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        n_pages = sum(kind == b"ANMF" for kind in _riff_chunks(data))
    elif data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        n_pages = _count_by_decoder(data)
    else:
        return 1
    if n_pages > MOST_PAGES:
        raise ImageError(f"{n_pages:,} pages; at most {MOST_PAGES:,} are read")
    return max(1, n_pages)


def _count_by_decoder(data: bytes) -> int:
    try:
        with open_image(data) as image:
            return int(getattr(image, "n_frames", 1))
    except Exception:  # decoding words the reason
        return 1


def _gif_frames(data: bytes) -> Iterator[int]:
    """Give where each frame of a GIF begins."""
    at = 13 + _palette_bytes(data[10:11])
    while at < len(data):
        kind = data[at]
        if kind == 0x2C:
            yield at
            at += 11 + _palette_bytes(data[at + 9 : at + 10])
        elif kind == 0x21:
            at += 2
        elif kind == 0x3B:
            return
        else:
            at += 1
            continue
        while at < len(data) and data[at]:  # blocks, each behind its size
            at += 1 + data[at]
        at += 1


def _palette_bytes(flags: bytes) -> int:
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def _count_png(data: bytes) -> int:
    """Frames of an animated PNG as Pillow counts them: a picture before the first is one more."""
    at, first_shown, n_frames, animated = 8, False, 0, False
    seen_data = False
    while at + 8 <= len(data):
        kind = data[at + 4 : at + 8]
        if kind == b"IEND" or (kind == b"IDAT" and not animated):
            break
        animated |= kind == b"acTL"
        if kind == b"fcTL":
            n_frames += 1
            first_shown |= not seen_data
        seen_data |= kind == b"IDAT"
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return n_frames + (not first_shown) if animated else 1


def _riff_chunks(data: bytes) -> Iterator[bytes]:
    at = 12
    while at + 8 <= len(data):
        yield data[at : at + 4]
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2


_MOST_LOOKED_AT = 64_000_000  # pixels: larger pictures are not decoded for a look


@dataclass(frozen=True)
class DeepValues:
    """Range of the values of one picture of more than 8 bits.

    Parameters
    ----------
    white
        The value that is white by the type.
    low, high
        Least and greatest value.
    """

    white: float
    low: float
    high: float


@dataclass(frozen=True)
class Look:
    """Facts of a file that a run may have to report.

    Parameters
    ----------
    deep
        Range of the values, where they have more than 8 bits and are whole numbers.
    nameless
        Whether it has three bands of which it does not say that they are red, green and blue.
    """

    deep: DeepValues | None = None
    nameless: bool = False


def look(data: bytes, page: int = 0) -> Look:
    """Look at the values that a picture stores, if its policy may make little of them.

    Anything that cannot be read gives an empty look: decoding words the reason.

    Examples
    --------
    >>> look(b"not a picture")
    Look(deep=None, nameless=False)
    """
    try:
        if is_tiff(data):
            return _look_at_tiff(data, page)
        if is_deep_png(data):
            with open_image(data) as image:
                small = image.width * image.height <= _MOST_LOOKED_AT
            return Look(_range(read_deep_png(data), 16)) if small else Look()
    except (ImageError, OSError, ValueError, SyntaxError, RuntimeError, MemoryError):
        pass
    return Look()


def _look_at_tiff(data: bytes, page: int) -> Look:
    check_tiff(data)
    raw = read_tiff(data, page, min(MAX_PIXELS, _MOST_LOOKED_AT))
    n_bands = raw.samples.shape[2]
    deep = raw.stored_bits > 8 and raw.samples.dtype.kind in "iu" and raw.photometric in (0, 1, 2)
    return Look(
        deep=_range(raw.samples, raw.stored_bits) if deep else None,
        nameless=n_bands == 3 and raw.photometric == 1,
    )


def _range(samples: Samples, stored_bits: int) -> DeepValues:
    white = white_of(samples.dtype, stored_bits, DEFAULT_POLICY)
    return DeepValues(white, float(np.min(samples)), float(np.max(samples)))
