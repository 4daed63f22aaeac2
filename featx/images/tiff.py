"""TIFF: read by tifffile, sample for sample, after the sizes that a file claims are checked.

Pillow reads many kinds of TIFF wrongly and in silence: it inverts min-is-white at 8 bits and not at
16, and takes separate planes of 16 bits for others. Here each combination of photometric
interpretation, depth, number of samples, layout and compression is right, or refused with a reason.
"""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tifffile
from PIL import Image

from featx.errors import ImageError, words_of
from featx.images.formats import open_image
from featx.images.policy import (
    DecodePolicy,
    Pixels,
    Samples,
    on_white,
    pick_bands,
    refuse_bands,
    rgb_of,
    scale,
    white_of,
)

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


_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_BYTES = 1 << 31  # of a picture as samples
_MOST_SEGMENTS = 1 << 20  # strips or tiles

# By the number of the tag; codecs whose output is bounded by the size of a strip or tile.
_PLAIN = {1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000}
_CODED = {7, 33003, 33005, 34712, 50001}  # JPEG, JPEG 2000, WebP: pictures with a size of their own
_WHITE_IS_0, _BLACK_IS_0, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB, _ICCLAB = 0, 1, 2, 3, 5, 6, 8, 9
_UNSPECIFIED, _ASSOCIATED, _UNASSOCIATED = 0, 1, 2  # extra samples
_FULL_RANGE = (0, 255, 128, 255, 128, 255)  # ReferenceBlackWhite of JPEG's YCbCr
_DNG_VERSION, _REFERENCE_BLACK_WHITE, _INK_SET, _ORIENTATION = 50706, 532, 332, 274

# What it remarks on is either refused here or has no effect.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)


def is_tiff(data: bytes) -> bool:
    """Tell a TIFF or BigTIFF by its first bytes."""
    return data[:4] in _MAGIC


@dataclass(frozen=True)
class RawTiff:
    """Samples of one page as they are stored, shape (height, width, n_bands), and their meaning."""

    samples: Samples
    photometric: int
    stored_bits: int
    extra: tuple[int, ...] | None
    colormap: Samples | None
    orientation: int


def read_tiff(data: bytes, page: int, most_pixels: int) -> RawTiff:
    """Read the samples of a page, counted from 0 among the full pictures of the file.

    Raises
    ------
    ImageError
        If the file is cut off, too large, or of a kind that is not read.
    """
    pages = picture_pages(data)
    if page >= len(pages):
        raise ImageError(f"page {page + 1} of {len(pages)}")
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            found = file.pages[pages[page]]
            assert isinstance(found, tifffile.TiffPage)
            _require_readable(found)
            _require_size(found, data, most_pixels)
            return _read(found)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # tifffile and its codecs raise any type on hostile bytes
        raise ImageError(f"cannot be decoded: {words_of(error)[:200]}") from None


def _read(page: tifffile.TiffPage) -> RawTiff:
    planes = page.asarray(squeeze=False, maxworkers=1)  # (planes, depth, height, width, samples)
    separate = page.planarconfig == 2 and planes.shape[0] > 1
    samples = np.moveaxis(planes[:, 0, :, :, 0], 0, 2) if separate else planes[0, 0]
    there = "ExtraSamples" in page.tags
    photometric = int(page.photometric)
    if photometric == _YCBCR and int(page.compression) in _CODED:
        photometric = _RGB  # what the codec gives
    return RawTiff(
        samples=samples,
        photometric=photometric,
        stored_bits=_bits(page),
        extra=tuple(map(int, page.extrasamples)) if there else None,
        colormap=page.colormap,
        orientation=int(page.tags.valueof(_ORIENTATION, 1)),
    )


def _bits(page: tifffile.TiffPage) -> int:
    bits: int | tuple[int, ...] = page.bitspersample
    if isinstance(bits, tuple):
        raise ImageError(f"samples of different depths ({', '.join(map(str, bits))} bits)")
    return int(bits)


def _require_readable(page: tifffile.TiffPage) -> None:
    compression = int(page.compression)
    if compression not in _PLAIN | _CODED:
        name = getattr(page.compression, "name", "unknown")
        raise ImageError(f"a TIFF compressed by {name} ({compression}), which is not read")
    if int(page.photometric) == _CMYK and page.tags.valueof(_INK_SET, 1) != 1:
        raise ImageError("inks other than CMYK")
    levels = page.tags.valueof(_REFERENCE_BLACK_WHITE)
    if int(page.photometric) == _YCBCR and compression not in _CODED and levels is not None:
        if tuple(a / b for a, b in zip(levels[::2], levels[1::2], strict=True)) != _FULL_RANGE:
            raise ImageError("YCbCr of another range than 0 to 255")
    if _DNG_VERSION in page.tags or int(page.photometric) in (32803, 34892):
        raise ImageError("a camera raw file (DNG); develop it to a picture first")
    if page.imagedepth > 1 or page.tags.valueof(32997, 1) > 1:
        raise ImageError("a volume (TIFF with ImageDepth); save its slices as pages")
    if page.dtype is None:
        raise ImageError(f"samples of {page.bitspersample} bits and format {page.sampleformat}")


def _require_size(page: tifffile.TiffPage, data: bytes, most_pixels: int) -> None:
    """Refuse what claims too many pixels, or more data than the file has, before any is decoded."""
    height, width, n_bands = page.imagelength, page.imagewidth, page.samplesperpixel
    if height * width > most_pixels:
        raise ImageError(f"{width}x{height} pixels; at most {most_pixels} are read")
    if height < 1 or width < 1 or n_bands < 1:
        raise ImageError("no pixels")
    tall = min(page.tilelength if page.is_tiled else page.rowsperstrip, height * 64 + 4096)
    wide = min(page.tilewidth, width * 64 + 4096) if page.is_tiled else width
    if tall < 1 or wide < 1:
        raise ImageError("strips or tiles without pixels")
    if not page.is_tiled:
        tall = min(tall, height)
    planes, inside = (n_bands, 1) if page.planarconfig == 2 else (1, n_bands)
    n_segments = -(-height // tall) * -(-width // wide) * planes
    assert page.dtype is not None
    n_bytes = n_segments * tall * wide * inside * page.dtype.itemsize
    if n_bytes > _MOST_BYTES or n_segments > _MOST_SEGMENTS:
        raise ImageError(
            f"{width}x{height} pixels of {n_bands} bands take {n_bytes:,} bytes; at most "
            f"{_MOST_BYTES:,} are read"
        )
    _require_segments(page, data, n_segments, (tall, wide))


def _require_segments(
    page: tifffile.TiffPage, data: bytes, n_segments: int, shape: tuple[int, int]
) -> None:
    if page.is_contiguous:
        missing = page.dataoffsets[0] + page.nbytes > len(data)
    else:
        places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        missing = len(places) < n_segments or any(
            count < 1 or start < 8 or start + count > len(data) for start, count in places
        )
    if missing:
        raise ImageError("damaged or cut off: some of its strips or tiles are missing")
    if int(page.compression) not in _CODED:
        return
    for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        with open_image(data[start : start + count]) as inner:
            if inner.height > shape[0] or inner.width > shape[1]:
                raise ImageError(
                    f"a strip or tile of {inner.width}x{inner.height} pixels where "
                    f"{shape[1]}x{shape[0]} were announced"
                )


def rgb_of_tiff(raw: RawTiff, policy: DecodePolicy) -> Pixels:
    """Turn the samples of a page into 8-bit RGB; the orientation is not applied.

    Raises
    ------
    ImageError
        If the bands have no colour that featx knows, or values lie outside their range.
    """
    convert = {_PALETTE: _rgb_of_palette, _CMYK: _rgb_of_cmyk, _YCBCR: _rgb_of_ycbcr}
    convert |= {_LAB: _rgb_of_lab, _ICCLAB: _rgb_of_lab}
    if raw.photometric in convert:
        pixels = convert[raw.photometric](raw, policy)
        return rgb_of(pick_bands(pixels, policy.bands)) if policy.bands else pixels
    if raw.photometric not in (_WHITE_IS_0, _BLACK_IS_0, _RGB):
        raise ImageError(f"photometric interpretation {raw.photometric}, which is not read")
    if policy.bands:
        return rgb_of(_levels(pick_bands(raw.samples, policy.bands), raw, policy))
    return _rgb_of_bands(raw, policy)


def _rgb_of_bands(raw: RawTiff, policy: DecodePolicy) -> Pixels:
    """Grey or RGB, and alpha if the file says that there is one."""
    n_bands = raw.samples.shape[2]
    if n_bands > 4:
        raise refuse_bands(n_bands)
    extra = raw.extra
    if extra is None:  # some writers of RGBA do not say so
        extra = (_UNASSOCIATED,) if raw.photometric == _RGB and n_bands == 4 else ()
    extra = extra[:n_bands]
    n_colours = n_bands - len(extra)
    if raw.photometric == _BLACK_IS_0 and n_bands == 3 and set(extra) <= {_UNSPECIFIED}:
        n_colours, extra = 3, ()
    if n_colours not in (1, 3) or (n_colours == 1 and n_bands > 1 and extra[0] == _UNSPECIFIED):
        raise refuse_bands(n_bands)
    if raw.photometric == _WHITE_IS_0 and n_colours != 1:
        raise refuse_bands(n_bands)
    colour = rgb_of(_levels(raw.samples[..., :n_colours], raw, policy))
    if not extra or extra[0] not in (_ASSOCIATED, _UNASSOCIATED):
        return colour
    white = white_of(raw.samples.dtype, raw.stored_bits, policy)
    alpha = scale(raw.samples[..., n_colours : n_colours + 1], white, policy)
    return on_white(np.dstack([colour, alpha]), premultiplied=extra[0] == _ASSOCIATED)


def _levels(samples: Samples, raw: RawTiff, policy: DecodePolicy) -> Pixels:
    """Grey levels from 0, which is black, to 255."""
    scaled = scale(samples, white_of(samples.dtype, raw.stored_bits, policy), policy)
    return 255 - scaled if raw.photometric == _WHITE_IS_0 else scaled


def _rgb_of_palette(raw: RawTiff, policy: DecodePolicy) -> Pixels:
    if raw.colormap is None or raw.samples.shape[2] != 1 or raw.samples.dtype.kind not in "bu":
        raise ImageError("a palette without colours, or with more than one band")
    colours = np.asarray(raw.colormap)
    if colours.max() > 255:  # 16 bits, as they should be; some writers give 8
        colours = colours // 256
    index = raw.samples[..., 0].astype(np.int64)
    if index.max() >= colours.shape[1]:
        raise ImageError(f"colour {index.max()} of a palette of {colours.shape[1]}")
    return np.ascontiguousarray(colours.astype(np.uint8).T[index])


def _rgb_of_cmyk(raw: RawTiff, policy: DecodePolicy) -> Pixels:
    if raw.samples.shape[2] != 4:
        raise ImageError(f"inks in {raw.samples.shape[2]} bands; only CMYK is read")
    return _converted("CMYK", _levels(raw.samples, raw, policy))


def _rgb_of_ycbcr(raw: RawTiff, policy: DecodePolicy) -> Pixels:
    return _converted("YCbCr", _three_bytes(raw, "YCbCr"))


def _rgb_of_lab(raw: RawTiff, policy: DecodePolicy) -> Pixels:
    # Pillow takes the bytes of CIELAB, where a and b are signed; ICCLAB has its zero at 128.
    zero = np.array([0, 128, 128] if raw.photometric == _ICCLAB else [0, 0, 0], np.uint8)
    return _converted("LAB", _three_bytes(raw, "LAB") ^ zero)


def _three_bytes(raw: RawTiff, name: str) -> Pixels:
    if raw.samples.shape[2] != 3 or raw.samples.dtype.itemsize != 1:
        raise ImageError(
            f"{name} in {raw.samples.shape[2]} bands of {raw.stored_bits} bits; three of 8 are read"
        )
    return raw.samples.view(np.uint8)


def _converted(mode: str, pixels: Pixels) -> Pixels:
    size = (pixels.shape[1], pixels.shape[0])
    image = Image.frombytes(mode, size, np.ascontiguousarray(pixels).tobytes())
    return np.array(image.convert("RGB"))
