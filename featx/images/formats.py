"""The picture formats that featx reads, and bounds that are checked before a decoder runs."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from PIL import Image

from featx.errors import ImageError
from featx.images.tags import check_tags, check_tiff

MAX_SCANS = 100
"""Of one JPEG: libtiff's limit too. Encoders write one to about twenty."""

_MOST_SCANNED = 2_500_000_000  # pixels times scans: each scan visits all of them
_MOST_SEGMENTS = 20_000  # markers of a JPEG or JPEG 2000 picture
_MOST_HEAD = 32_000_000  # bytes before the first scan; a colour profile has at most 16 MB
_MOST_JUNK = 65_536  # bytes between the segments of a JPEG; of a Netpbm header with its comments
_MOST_CHUNKS = 500_000  # of a PNG: 4 GB in the usual chunks of 8 kB
_MOST_BLOCKS = 100_000  # of up to 255 bytes, before the first frame of a GIF
_MOST_SLOW = 4_000_000  # bytes or samples that Pillow decodes in Python, at a microsecond each

MOST_JPEG2000 = 100_000_000
"""Pixels of a JPEG 2000 picture, whose decoder is ten times slower than the others."""

_MOST_BOXES = 1000
_MOST_TILES = 16_384  # the decoder keeps 5 kB for each
_MOST_LAYERS = 1000
_MOST_CODE_BLOCKS = 2_000_000
_LEAST_PRECINCT = 5  # as a power of two: 32 samples
_SMALL = 1_000_000  # pixels whose blocks may be as small as they like

_EOI, _SOS = 0xD9, 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_BARE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither a stuffed byte nor a restart


def check_jpeg(data: bytes) -> None:
    """Bound the scans, the segments and the tags of a JPEG file."""
    exif = bytearray()
    pixels = at = 0
    for kind, start, at in _segments(data):
        body = data[start:at]
        if kind in _FRAMES and len(body) >= 5:
            pixels = max(pixels, _u16(body, 1) * _u16(body, 3))
        elif kind == 0xE1 and body[:6] == b"Exif\0\0":
            exif += body[6:]
        elif kind == 0xE2 and body[:4] == b"MPF\0":
            check_tags(body[4:])
    check_tags(bytes(exif))
    n_scans = data.count(b"\xff\xda", max(0, at - 2))  # may count those of further pictures too
    if n_scans > MAX_SCANS or n_scans * pixels > _MOST_SCANNED:
        n_scans = 1 + _count_scans(data, at)
    if n_scans > MAX_SCANS:
        raise ImageError(f"more than {MAX_SCANS} scans in one JPEG")
    if n_scans * pixels > _MOST_SCANNED:
        raise ImageError(f"{n_scans} scans of {pixels} pixels in one JPEG: too long to decode")


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Give marker, start and end of each segment of a JPEG file up to its first scan."""
    at, junk = 2, 0
    for _ in range(_MOST_SEGMENTS):
        found = _MARKER.search(data, at, _MOST_HEAD)
        if found is None:
            break
        junk += found.start() - at
        if junk > _MOST_JUNK:
            raise ImageError("more than 64 kB of stray bytes between the segments of a JPEG")
        kind, start = data[found.end() - 1], found.end() + 2
        if kind in _BARE:
            at = found.end()
            continue
        at = found.end() + _u16(data, found.end())
        yield kind, start, at
        if kind in (_SOS, _EOI) or at > len(data):
            return
    if len(data) > _MOST_HEAD or at < len(data) - _MOST_JUNK:
        raise ImageError("a JPEG whose header does not end within 20,000 segments and 32 MB")


def _count_scans(data: bytes, at: int) -> int:
    """Count the scans that begin after `at`, up to the end of the picture."""
    n_scans = 0
    for _ in range(_MOST_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None or data[found.end() - 1] in (0xD8, _EOI):
            return n_scans
        kind, at = data[found.end() - 1], found.end()
        n_scans += kind == _SOS
        if kind not in _BARE:
            at += _u16(data, at)
    return _MOST_SEGMENTS


def check_png(data: bytes) -> None:
    """Bound the chunks of a PNG file and its Exif tags; Pillow itself bounds its texts."""
    at = 8
    for _ in range(_MOST_CHUNKS):
        kind = data[at + 4 : at + 8]
        if at + 8 > len(data) or kind == b"IEND":
            return
        end = at + 12 + _u32(data, at)
        if kind == b"eXIf":
            check_tags(data[at + 8 : end - 4])
        elif kind == b"tRNS" and data[25] == 0 and data[24] in (2, 4):
            # Pillow would look for that level among those that it has scaled to 8 bits.
            raise ImageError(
                f"a grey PNG of {data[24]} bits in which one level is transparent; save it with 8"
            )
        at = end
    raise ImageError(f"more than {_MOST_CHUNKS} chunks in one PNG")


def check_gif(data: bytes) -> None:
    """Bound what stands before the first frame of a GIF file."""
    has_palette = len(data) > 10 and data[10] & 0x80
    at, in_extension = 13 + (3 << (data[10] & 7) + 1 if has_palette else 0), False
    for _ in range(_MOST_BLOCKS):
        if at >= len(data):
            return
        size = data[at]
        if in_extension:  # blocks, each behind its size, up to an empty one
            at, in_extension = at + 1 + size, size > 0
        elif size in b",;":
            return
        else:  # an exclamation mark and the kind of an extension, or a stray byte
            at, in_extension = at + (2 if size == 0x21 else 1), size == 0x21
    raise ImageError(f"more than {_MOST_BLOCKS} blocks before the first frame of a GIF")


def check_bmp(data: bytes) -> None:
    """Bound run-length coding, which Pillow decodes in Python."""
    start = 14 if data[:2] == b"BM" else 0
    compression = int.from_bytes(data[start + 16 : start + 20], "little")
    if compression in (1, 2) and len(data) > _MOST_SLOW:
        raise ImageError(f"a run-length coded BMP of {len(data)} bytes; at most {_MOST_SLOW}")


def check_netpbm(data: bytes) -> None:
    """Bound the header of a PPM, PGM or PBM file, and the kinds that Pillow reads in Python."""
    head = re.sub(rb"#[^\r\n]*", b"", data[:_MOST_JUNK]).split(None, 4)
    n_numbers = 2 if head[0] in (b"P1", b"P4") else 3
    try:
        width, height, *top = (float(token) for token in head[1 : 1 + n_numbers])
    except ValueError:
        raise ImageError("a Netpbm file without width, height and highest value") from None
    direct = head[0] in (b"P4", b"Pf") or top == [255] or (head[0] == b"P5" and top == [65535])
    samples = width * height * (3 if head[0] in (b"P3", b"P6") else 1)
    if (head[0] in (b"P1", b"P2", b"P3") or not direct) and not samples <= _MOST_SLOW:
        raise ImageError(
            f"a Netpbm file of {samples:.0f} samples that are text or have an odd depth; at most "
            f"{_MOST_SLOW} are read: save it with 8 bits"
        )


def check_jpeg2000(data: bytes) -> None:
    """Bound the boxes, tiles, components, code blocks and layers of a JPEG 2000 picture."""
    at = _find_codestream(data)
    if len(data) < at + 42:
        raise ImageError("a JPEG 2000 file whose codestream is cut off")
    x1, y1, x0, y0, tile_x, tile_y = (_u32(data, at + 8 + 4 * k) for k in range(6))
    pixels = max(0, x1 - x0) * max(0, y1 - y0)
    n_tiles = -(-x1 // max(1, tile_x)) * -(-y1 // max(1, tile_y))
    if n_tiles > _MOST_TILES or _u16(data, at + 40) > 4 or pixels > MOST_JPEG2000:
        raise ImageError(
            f"a JPEG 2000 picture of {pixels} pixels, {n_tiles} tiles and {_u16(data, at + 40)} "
            f"components; at most {MOST_JPEG2000}, {_MOST_TILES} and 4 are read"
        )
    _check_depth(data, at)
    for area, precinct, layers in _coding_styles(data, at):
        too_fine = pixels > area * _MOST_CODE_BLOCKS or precinct < _LEAST_PRECINCT
        if layers > _MOST_LAYERS or (too_fine and pixels > _SMALL):
            raise ImageError("a JPEG 2000 picture of very many blocks or layers")


def _check_depth(data: bytes, at: int) -> None:
    """Refuse the depths whose brightest samples Pillow makes black while it scales them."""
    n_components = _u16(data, at + 40)
    bits = max(((size & 0x7F) + 1 for size in data[at + 42 :: 3][:n_components]), default=0)
    deep_grey = n_components == 1 and 10 <= bits <= 16
    if bits > 8 and not deep_grey:
        raise ImageError(
            f"a JPEG 2000 picture of {n_components} components with {bits} bits each; of more than "
            "8 bits only grey of 10 to 16 is read: save it as PNG or TIFF"
        )


def _find_codestream(data: bytes) -> int:
    """Give where the codestream of a JPEG 2000 file begins."""
    at = 0
    for _ in range(_MOST_BOXES):
        if data[at : at + 4] == b"\xff\x4f\xff\x51" or at + 8 > len(data):
            return at
        size, kind, head = _u32(data, at), data[at + 4 : at + 8], 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        at += head if kind == b"jp2c" else max(size, head)
    raise ImageError("too many boxes in a JPEG 2000 file")


def _coding_styles(data: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """Give area of a code block, least precinct and layers of all headers of a codestream."""
    at, tile_end = at + 2, 0
    for _ in range(_MOST_SEGMENTS):
        kind, size = _u16(data, at), _u16(data, at + 2)
        if kind == 0xFF90:  # a part of a tile, and how long it is with its header
            tile_end = at + _u32(data, at + 6) if _u32(data, at + 6) else len(data)
        elif kind == 0xFF93:  # its pixels begin
            at = tile_end
            continue
        elif kind in (0xFF52, 0xFF53):
            yield _coding_style(data[at + 4 : at + 2 + size], kind == 0xFF53)
        elif kind == 0xFFD9 or at + 4 > len(data):
            return
        at += 2 + size
    raise ImageError("too many segments in a JPEG 2000 file")


def _coding_style(body: bytes, of_component: bool) -> tuple[int, int, int]:
    layers = 1 if of_component else _u16(body, 2)
    style, body = body[of_component : of_component + 1], body[2 if of_component else 5 :]
    if len(body) < 5:
        raise ImageError("a JPEG 2000 picture whose coding style is cut off")
    area = 1 << (body[1] & 15) + (body[2] & 15) + 4
    powers = [min(p & 15, p >> 4) for p in body[5 + 1 :]] if style[0] & 1 else []
    return area, min(powers, default=15), layers


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")


def _u16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


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
