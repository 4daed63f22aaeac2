"""One decode policy.

The policy, whatever a file's name says:

* the content decides the format; only those of `featx.images.formats` are read, and of an animation
  or a stack only the first frame;
* colour becomes 8-bit RGB: grey is repeated, CMYK is converted, deep values are scaled by the range
  of their type or by the bits that the run names (never clipped), floats must lie in [0, 1], alpha
  is composed on white;
* the EXIF orientation is applied;
* a file that is truncated, that its decoder finds damaged among the pixels, or that has more than
  `MAX_PIXELS` of them is refused.

JPEG scans are decoded by libjpeg-turbo through simplejpeg, which gives Pillow's pixels bit for bit
in less time; TIFF by tifffile (`featx.images.tiff`); PNG of 16 bits by libpng through imagecodecs,
since Pillow keeps 8 bits of its colours; everything else, and every JPEG that simplejpeg does not
take, by Pillow.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
import zlib
from collections.abc import Iterator

import imagecodecs
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from featx.errors import ImageError, words_of
from featx.images.formats import MAX_PIXELS, open_image
from featx.images.policy import (
    DEFAULT_POLICY,
    DecodePolicy,
    Pixels,
    Samples,
    on_white,
    pick_bands,
    rgb_of,
    scale,
    white_of,
)
from featx.images.tags import check_tiff, tiff_pixels
from featx.images.tiff import is_tiff, read_tiff, rgb_of_tiff
from featx.typing import JsonObject

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
    """True if the segments before the first scan hold neither EXIF nor XMP nor an index."""
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


_LARGE = 40_000_000
_large_picture = threading.BoundedSemaphore(1)  # bounds memory: one very large picture at a time
_OVERSAMPLING = 2  # --decode fast keeps at least twice the pixels that are needed
_EXIF_ORIENTATION = 0x0112

# Of libjpeg's warnings those after which the pixels are made up; Pillow passes over them.
_DAMAGED = ("bad Huffman code", "premature end of data segment")

# What Pillow warns of (odd metadata, large pictures) is either refused here or has no effect.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)


def decode(
    data: bytes,
    policy: DecodePolicy = DEFAULT_POLICY,
    need: int | None = None,
    page: int = 0,
) -> Pixels:
    """Decode the bytes of an image file.

    Parameters
    ----------
    data
        The whole file.
    policy
        Mode ``fast`` may decode a JPEG at a reduced scale, as long as its shorter side stays at
        least twice `need`.
    need
        The shorter side, in pixels, that the picture is going to be resized to.
    page
        Which page or frame, from 0.

    Returns
    -------
    pixels : uint8, shape (height, width, 3), RGB

    Raises
    ------
    ImageError
        If the bytes are not an image that the policy takes; the message is the reason.

    Examples
    --------
    >>> import io
    >>> from PIL import Image, UnidentifiedImageError
    >>> file = io.BytesIO()
    >>> Image.new("L", (5, 4)).save(file, "PNG")
    >>> decode(file.getvalue()).shape
    (4, 5, 3)
    """
    if not data:
        raise ImageError("the file is empty")
    try:
        if policy.mode == "exact" and not policy.bands and not page:
            bare = decode_plain(data, _LARGE)
            if bare is not None:
                return bare
        if is_tiff(data):
            return _decode_tiff(data, policy, page)
        image = open_image(data)
        large = image.width * image.height > _LARGE
        with _large_picture if large else contextlib.nullcontext():
            return _decode_other(data, image, policy, need, page)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("not an image of a known format") from None
    except Image.DecompressionBombError:
        raise ImageError(f"a decompression bomb; at most {MAX_PIXELS} pixels are read") from None
    except MemoryError:
        raise ImageError("too large for the memory of this machine") from None
    except Exception as error:  # Pillow's plugins raise any type on hostile bytes
        reason = words_of(error)
        raise ImageError(f"cannot be decoded: {reason[:200]}") from None


def _decode_tiff(data: bytes, policy: DecodePolicy, page: int) -> Pixels:
    check_tiff(data)
    with _large_picture if tiff_pixels(data) > _LARGE else contextlib.nullcontext():
        raw = read_tiff(data, page, MAX_PIXELS)
        return _orient(rgb_of_tiff(raw, policy), raw.orientation)


def _decode_other(
    data: bytes, image: Image.Image, policy: DecodePolicy, need: int | None, page: int
) -> Pixels:
    smallest = _OVERSAMPLING * need if policy.mode == "fast" and need else 0
    if image.format == "JPEG" and image.mode in ("RGB", "L"):
        return _chosen(_decode_jpeg(data, image, smallest), policy)
    if image.format == "TIFF":
        raise ImageError("a TIFF whose first bytes are in the wrong order")
    if page:
        image.seek(page)
    if image.format == "PNG" and not page and is_deep_png(data):
        pixels = _decode_deep_png(data, image, policy)
    else:
        pixels = _decode_pillow(image, policy)
    if image.format == "PNG":
        _check_png(data, page)
    return pixels


def _chosen(pixels: Pixels, policy: DecodePolicy) -> Pixels:
    """Apply the choice of bands to a picture that has been decoded to RGB."""
    return rgb_of(pick_bands(pixels, policy.bands)) if policy.bands else pixels


def _decode_deep_png(data: bytes, image: Image.Image, policy: DecodePolicy) -> Pixels:
    """Decode all 16 bits of each sample: grey, grey and alpha, RGB, or RGB and alpha."""
    clear = image.info.get("transparency")
    samples = read_deep_png(data)
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    if policy.bands:
        samples = pick_bands(samples, policy.bands)
    levels = scale(samples, white_of(samples.dtype, 16, policy), policy)
    if policy.bands:
        return _orient(rgb_of(levels), orientation)
    if clear is not None:
        seen = (samples != np.atleast_1d(clear)).any(axis=2, keepdims=True)
        levels = np.dstack([levels, np.where(seen, 255, 0).astype(np.uint8)])
    if levels.shape[2] in (1, 3):
        return _orient(rgb_of(levels), orientation)
    rgba = np.dstack([rgb_of(levels[..., :-1]), levels[..., -1]])
    return _orient(on_white(rgba), orientation)


def _check_png(data: bytes, page: int) -> None:
    """Refuse changed pixels: Pillow skips the checksums of the chunks that hold them.

    A frame is drawn over those before it; what follows it is left alone.
    """
    view, at, frame = memoryview(data), 8, -1
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        kind = bytes(view[at + 4 : at + 8])
        if kind == b"IDAT":
            frame = max(frame, 0)
        elif kind == b"fcTL":
            frame += frame >= 0
        if kind == b"IEND" or frame > page:
            return
        if kind in (b"IDAT", b"fdAT") and zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(
            view[end - 4 : end], "big"
        ):
            raise ImageError("damaged or cut off: the checksum of its pixels is wrong")
        at = end


def _decode_jpeg(data: bytes, image: Image.Image, smallest: int) -> Pixels:
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    scale: JsonObject = {}
    if smallest:
        ratio = smallest / min(image.size)
        scale = {"min_height": image.height * ratio, "min_width": image.width * ratio}
        scale = {name: min(int(np.ceil(v)), 65535) for name, v in scale.items()}
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", **scale)
    except ValueError as error:  # an odd or broken file: Pillow decides, and words the reason
        if any(sign in str(error) for sign in _DAMAGED):
            raise ImageError(f"damaged: {error}") from None
        if smallest:
            image.draft("RGB", (scale["min_width"], scale["min_height"]))
        return _decode_pillow(image)
    return _orient(pixels, orientation)


def _decode_pillow(image: Image.Image, policy: DecodePolicy = DEFAULT_POLICY) -> Pixels:
    image.load()
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    if policy.bands:
        pixels = rgb_of(pick_bands(_bands_of(image), policy.bands))
    else:
        pixels = np.array(_to_rgb(image))  # torch wants it writable
    return _orient(pixels, orientation)


def _bands_of(image: Image.Image) -> Pixels:
    """Bands of a picture, shape (height, width, n); those of colours that are codes are RGB."""
    if _is_deep(image):
        return np.atleast_3d(_grey_levels(image))
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = _to_rgb(image)
    return np.atleast_3d(np.asarray(image))


def _to_rgb(image: Image.Image) -> Image.Image:
    if _is_deep(image):
        return Image.fromarray(_grey_levels(image)).convert("RGB")
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _grey_levels(image: Image.Image) -> Pixels:
    # These formats say themselves which value is white, and Pillow has scaled it to 65,535.
    white = 1.0 if image.mode == "F" else 65535.0
    return scale(np.asarray(image), white, DEFAULT_POLICY)


def _orient(pixels: Pixels, orientation: object) -> Pixels:
    """Undo the EXIF orientation (1 to 8; anything else counts as 1)."""
    turns = {
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: p[::-1].swapaxes(0, 1),
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
        8: lambda p: p[:, ::-1].swapaxes(0, 1),
    }
    if not isinstance(orientation, int) or orientation not in turns:
        return pixels
    return np.ascontiguousarray(turns[orientation](pixels))
