"""The picture formats that featx reads: a list of wanted ones, each with a decoder that is known.

Pillow has about forty plugins. Some start another program (EPS), some open whatever content lies
within (IPTC, ICO, ICNS, BLP, FPX), some decode in pure Python for minutes (QOI, FITS, XPM). Only
what is listed here is ever asked, so a plugin that a new Pillow brings is not read before somebody
looked at it.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from PIL import Image

from featx.errors import ImageError
from featx.images.bounds import (
    MOST_JPEG2000,
    check_bmp,
    check_gif,
    check_jpeg,
    check_jpeg2000,
    check_netpbm,
    check_png,
)
from featx.images.tags import check_tags, check_tiff

MAX_PIXELS = 178_956_970
"""Largest picture, in pixels: Pillow's own limit for a decompression bomb."""

_PREFIX = 16  # bytes by which Pillow's plugins know their files


def _nothing(data: bytes) -> None:
    """Leave a format alone whose decoder does work in proportion to the pixels of its header."""


@dataclass(frozen=True)
class Format:
    """One format that is read.

    Parameters
    ----------
    decoder
        The library that makes the pixels; all of them are compiled code.
    check
        Refuses, from the bytes alone, what would cost far more than its size and pixels allow.
    most_pixels
        Largest picture of this format.
    """

    decoder: str
    check: Callable[[bytes], None] = _nothing
    most_pixels: int = MAX_PIXELS


WANTED: dict[str, Format] = {
    "JPEG": Format("libjpeg-turbo", check_jpeg),
    "PNG": Format("zlib", check_png),
    "TIFF": Format("tifffile, through featx.images.tiff", check_tiff),
    "WEBP": Format("libwebp", check_tags),
    "AVIF": Format("libavif", check_tags),
    "HEIF": Format("libheif, from the extra heif", check_tags),
    "GIF": Format("Pillow", check_gif),
    "BMP": Format("Pillow", check_bmp),
    "DIB": Format("Pillow", check_bmp),
    "JPEG2000": Format("OpenJPEG", check_jpeg2000, MOST_JPEG2000),
    "PPM": Format("Pillow", check_netpbm),
    "SGI": Format("Pillow"),
    "SUN": Format("Pillow"),
    "PCX": Format("Pillow"),
    "TGA": Format("Pillow"),
}
"""By Pillow's name. An MPO file is a JPEG file of several pictures, and its first is read."""


_EXTRAS = {".heic": "heif", ".heif": "heif", ".hif": "heif", ".heics": "heif", ".heifs": "heif"}


@cache
def _init() -> None:
    """Load Pillow's plugins, and the one for HEIC where the extra is installed."""
    Image.init()
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return
    register_heif_opener()


def missing_extra(extension: str) -> str | None:
    """Name the extra of featx that would read files of an extension; None if none would.

    Examples
    --------
    >>> missing_extra(".txt") is None
    True
    """
    return None if extension in image_extensions() else _EXTRAS.get(extension)


def image_extensions() -> frozenset[str]:
    """Lower-case file extensions, with the dot, that count as images in a folder."""
    _init()
    names = {*WANTED, "MPO"}
    return frozenset(e for e, name in Image.registered_extensions().items() if name in names)


def open_image(data: bytes) -> Image.Image:
    """Open a picture by one of the wanted decoders, without decoding any pixel.

    Raises
    ------
    ImageError
        If it is too large, or its bytes ask for more time or memory than a picture may cost.
    UnidentifiedImageError, SyntaxError, OSError
        From Pillow, if it is not a picture or is damaged.
    """
    _init()
    names = [name for name in WANTED if _may_be(name, data[:_PREFIX])]
    for name in names:
        WANTED[name].check(data)
    image = Image.open(io.BytesIO(data), formats=names)
    if (profile := image.info.get("Raw profile type exif")) is not None:  # of PNG, in digits
        check_tags(_bytes_of_profile(profile))
    most = WANTED.get(image.format or "", WANTED["JPEG"]).most_pixels
    if image.width * image.height > most:
        raise ImageError(f"{image.width}x{image.height} pixels; at most {most} are read")
    return image


def _may_be(name: str, prefix: bytes) -> bool:
    if name not in Image.OPEN:
        return False
    accept = Image.OPEN[name][1]
    try:
        return accept is None or accept(prefix) is True
    except (struct.error, IndexError):  # fewer bytes than its mark has
        return False


def _bytes_of_profile(profile: object) -> bytes:
    try:
        return bytes.fromhex("".join(str(profile).split("\n")[3:]))
    except ValueError:
        return b""
