"""JPEGs that need nothing but their scan: their header is read once, and by libjpeg-turbo alone.

Pillow parses a header for 35 us, which is more than a small picture takes to decode, and holds the
interpreter meanwhile, which every other thread then waits for. It is needed where a file says more
than its pixels: how they are turned (EXIF, XMP), or that there are several pictures (MPF).
"""

from __future__ import annotations

import simplejpeg

from featx.images.samples import Pixels

_START = b"\xff\xd8\xff"
_SCAN, _APP1, _APP2 = 0xDA, 0xE1, 0xE2
_HEADERS = range(0xC0, 0xFF)  # markers that are followed by their length
_FEW_SCANS, _FEW_SEGMENTS = 20, 300
_COLOURS = ("YCbCr", "Gray")


def decode_plain(data: bytes, most_pixels: int) -> Pixels | None:
    """Decode a JPEG that says nothing beyond its pixels; None for every other file.

    Returns
    -------
    pixels : uint8, shape (height, width, 3), RGB, or None
        None also where the file is damaged or larger than `most_pixels`: who reads it in full
        words the reason.
    """
    if not data.startswith(_START) or not _is_bare(data):
        return None
    if data.count(b"\xff\xda") > _FEW_SCANS:  # too many take minutes; `check_jpeg` judges them
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in _COLOURS or height * width > most_pixels:
            return None
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        return None
    return pixels


def _is_bare(data: bytes) -> bool:
    """Whether the segments before the first scan hold neither EXIF nor XMP nor an index."""
    at, length = 2, len(data)
    for _ in range(_FEW_SEGMENTS):
        if at + 4 > length or data[at] != 0xFF:
            return False
        marker = data[at + 1]
        if marker == _SCAN:
            return True
        if marker not in _HEADERS or marker == _APP1:
            return False
        if marker == _APP2 and data[at + 4 : at + 8] == b"MPF\0":
            return False
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return False
