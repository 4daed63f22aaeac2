"""PIXELS: one decode policy, and pictures drawn straight into the batch.

The policy, whatever a file's name says:

* the content decides the format; only formats that Pillow reads by itself are read (no Ghostscript,
  no stub plugins), and of an animation or a stack only the first frame;
* colour becomes 8-bit RGB: grey is repeated, CMYK is converted, 16-bit is scaled by 1/257 (never
  clipped), floats must lie in [0, 1], alpha is composed on white;
* the EXIF orientation is applied;
* a file that is truncated, that its decoder finds damaged among the pixels, or that has more than
  `MAX_PIXELS` of them is refused.

JPEG scans are decoded by libjpeg-turbo through simplejpeg, which gives Pillow's pixels bit for bit
in less time; everything else, and every JPEG that simplejpeg does not take, is decoded by Pillow.
"""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
import zlib
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch.nn import functional

from featx.errors import ImageError, words_of
from featx.preprocess import Preprocess, View

Pixels = NDArray[np.uint8]
DecodeMode = Literal["exact", "fast"]

MAX_PIXELS = 178_956_970
"""Largest picture, in pixels: Pillow's own limit for a decompression bomb."""

_LARGE = 40_000_000
_large_picture = threading.BoundedSemaphore(1)  # bounds memory: one very large picture at a time
_OVERSAMPLING = 2  # --decode fast keeps at least twice the pixels that are needed
_EXIF_ORIENTATION = 0x0112

# Of libjpeg's warnings those after which the pixels are made up; Pillow passes over them.
_DAMAGED = ("bad Huffman code", "premature end of data segment")

# Plugins that start another program, or that cannot decode at all.
_UNSAFE_FORMATS = {"EPS", "WMF", "HDF5", "GRIB", "BUFR", "MPEG"}
Image.init()
_FORMATS = tuple(sorted(set(Image.OPEN) - _UNSAFE_FORMATS))

# What Pillow warns of (odd metadata, large pictures) is either refused here or has no effect.
warnings.filterwarnings("ignore", module=r"PIL\.")


def image_extensions() -> frozenset[str]:
    """Lower-case file extensions, with the dot, that count as images in a folder."""
    return frozenset(e for e, f in Image.registered_extensions().items() if f in _FORMATS)


def decoder_spec(mode: DecodeMode) -> dict[str, Any]:
    """Everything about decoding that can change a pixel, for the fingerprint."""
    return {
        "policy": 1,
        "mode": mode,
        "colour": "RGB; CMYK converted; alpha on white; 16-bit scaled",
        "exif": "applied",
        "frame": 0,
        "pillow": version("pillow").split(".")[0],
        "simplejpeg": version("simplejpeg").split(".")[0],
    }


def decode(data: bytes, mode: DecodeMode = "exact", need: int | None = None) -> Pixels:
    """Decode the bytes of an image file.

    Parameters
    ----------
    data
        The whole file.
    mode
        ``fast`` may decode a JPEG at a reduced scale, as long as its shorter side stays at least
        twice `need`.
    need
        The shorter side, in pixels, that the picture is going to be resized to.

    Returns
    -------
    pixels : uint8, shape (height, width, 3), RGB

    Raises
    ------
    ImageError
        If the bytes are no image that the policy takes; the message is the reason.

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
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        n_pixels = image.width * image.height
        if n_pixels > MAX_PIXELS:
            raise ImageError(f"{image.width}x{image.height} pixels; at most {MAX_PIXELS} are read")
        with _large_picture if n_pixels > _LARGE else contextlib.nullcontext():
            smallest = _OVERSAMPLING * need if mode == "fast" and need else 0
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                return _decode_jpeg(data, image, smallest)
            pixels = _decode_pillow(image)
            if image.format == "PNG":
                _check_png(data)
            return pixels
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


def _check_png(data: bytes) -> None:
    """Refuse changed pixels: Pillow skips the checksums of the chunks that hold them."""
    view, at = memoryview(data), 8
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        kind = bytes(view[at + 4 : at + 8])
        if kind == b"IEND":
            return
        if kind == b"IDAT" and zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(
            view[end - 4 : end], "big"
        ):
            raise ImageError("damaged or cut off: the checksum of its pixels is wrong")
        at = end


def _decode_jpeg(data: bytes, image: Image.Image, smallest: int) -> Pixels:
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    scale: dict[str, Any] = {}
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


def _decode_pillow(image: Image.Image) -> Pixels:
    image.load()
    # Read after loading: Pillow's TIFF reader turns the picture itself, and says so here.
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    return _orient(np.array(_to_rgb(image)), orientation)  # torch wants it writable


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_scale_deep(np.asarray(image), image.mode)).convert("RGB")
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _scale_deep(values: NDArray[Any], mode: str) -> Pixels:
    top = 1.0 if mode == "F" else 65535.0
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= top):  # also refuses NaN
        raise ImageError(f"pixel values from {low} to {high}; featx reads 0 to {top:g} here")
    scaled: Pixels = np.rint(values.astype(np.float32) * (255.0 / top)).astype(np.uint8)
    return scaled


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


def draw(data: bytes, preprocess: Preprocess, out: Pixels, mode: DecodeMode = "exact") -> None:
    """Decode `data` and draw each view of it into `out`.

    Parameters
    ----------
    data
        The bytes of an image file.
    preprocess
        Size, resizing and views.
    out
        uint8, shape `Preprocess.out_shape`, RGB; written in place.
    mode
        See `decode`.
    """
    draw_pixels(decode(data, mode, min(preprocess.resize_size)), preprocess, out)


def draw_pixels(pixels: Pixels, preprocess: Preprocess, out: Pixels) -> None:
    """Draw each view of decoded pixels, uint8 (height, width, 3), into `out`."""
    for view, target in zip(preprocess.views, out, strict=True):
        drawn = _draw_view(pixels, preprocess, view)
        target[...] = _turn(drawn, view.turn)


def _draw_view(pixels: Pixels, preprocess: Preprocess, view: View) -> Pixels:
    height, width = pixels.shape[:2]
    size = resized_size((height, width), preprocess, view.scale)
    crop = preprocess.input_size
    if view.turn in ("rot90", "rot270", "transpose", "transverse"):
        crop = (crop[1], crop[0])
    top, left = (_offset(size[i], crop[i], view.position, i) for i in (0, 1))
    # A long, thin picture would grow to gigabytes: resize only what the crop shows.
    if size[0] * size[1] > 16 * crop[0] * crop[1] and top >= 0 and left >= 0:
        return _resize_box(pixels, size, (top, left), crop, preprocess.interpolation)
    resized = _resize(pixels, size, preprocess)
    fill = preprocess.mean if preprocess.resize == "pad" else (0.0, 0.0, 0.0)
    return _crop(resized, (top, left), crop, fill)


def resized_size(
    size: tuple[int, int], preprocess: Preprocess, scale: float = 1.0
) -> tuple[int, int]:
    """Height and width after resizing, rounded as torchvision rounds them."""
    height, width = size
    to_height, to_width = (max(1, int(s * scale)) for s in preprocess.resize_size)
    if preprocess.resize == "squash":
        return to_height, to_width
    if preprocess.resize == "pad":
        ratio = min(to_height / height, to_width / width)
        return max(1, round(height * ratio)), max(1, round(width * ratio))
    short = min(to_height, to_width)
    if height <= width:
        return short, max(1, int(short * width / height))
    return max(1, int(short * height / width)), short


def _resize(pixels: Pixels, size: tuple[int, int], preprocess: Preprocess) -> Pixels:
    if pixels.shape[:2] == size:
        return pixels
    if preprocess.interpolation not in ("bilinear", "bicubic"):
        return _resize_box(pixels, size, (0, 0), size, preprocess.interpolation)
    # (1, 3, h, w) in channels-last strides, that of the first axis too, or torch gives planes back;
    # then it is the vectorised uint8 kernel with Pillow's arithmetic.
    tensor = torch.from_numpy(np.ascontiguousarray(pixels))[None].permute(0, 3, 1, 2)
    resized = functional.interpolate(
        tensor, size, mode=preprocess.interpolation, antialias=preprocess.antialias
    )
    drawn: Pixels = resized[0].permute(1, 2, 0).numpy()
    return drawn


def _resize_box(
    pixels: Pixels,
    size: tuple[int, int],
    offset: tuple[int, int],
    crop: tuple[int, int],
    interpolation: str,
) -> Pixels:
    """Pillow's resize of the part that the crop shows; the same kernel positions as the whole."""
    step_y, step_x = pixels.shape[0] / size[0], pixels.shape[1] / size[1]
    top, left = offset
    box = (left * step_x, top * step_y, (left + crop[1]) * step_x, (top + crop[0]) * step_y)
    box = (*box[:2], min(box[2], pixels.shape[1]), min(box[3], pixels.shape[0]))
    resample = Image.Resampling[interpolation.upper()]
    return np.asarray(Image.fromarray(pixels).resize((crop[1], crop[0]), resample, box=box))


def _offset(size: int, crop: int, position: str, axis: int) -> int:
    """Where the crop starts along one axis; negative where the picture is smaller."""
    if position == "center" or size < crop:
        return round((size - crop) / 2.0) if size >= crop else -((crop - size) // 2)
    first = ("top" in position) if axis == 0 else ("left" in position)
    return 0 if first else size - crop


def _crop(
    pixels: Pixels, offset: tuple[int, int], crop: tuple[int, int], fill: tuple[float, ...]
) -> Pixels:
    top, left = offset
    if top >= 0 and left >= 0:
        return pixels[top : top + crop[0], left : left + crop[1]]
    drawn = np.empty((*crop, 3), np.uint8)
    drawn[:] = [round(255 * f) for f in fill]
    source = pixels[max(0, top) : max(0, top) + crop[0], max(0, left) : max(0, left) + crop[1]]
    y, x = max(0, -top), max(0, -left)
    drawn[y : y + source.shape[0], x : x + source.shape[1]] = source
    return drawn


def _turn(pixels: Pixels, turn: str) -> Pixels:
    """Turn a picture: the seven symmetries of a rectangle or square besides identity."""
    if turn in ("transpose", "rot90", "rot270", "transverse"):
        pixels = pixels.swapaxes(0, 1)
    if turn in ("vflip", "rot180", "rot90", "transverse"):
        pixels = pixels[::-1]
    if turn in ("hflip", "rot180", "rot270", "transverse"):
        pixels = pixels[:, ::-1]
    return pixels
