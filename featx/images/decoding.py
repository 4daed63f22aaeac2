"""One decode policy.

The policy, whatever a file's name says:

* the content decides the format; only those of `featx.images.formats` are read, and of an animation
  or a stack only the first frame;
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
import threading
import warnings
import zlib
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from featx.errors import ImageError, words_of
from featx.images.formats import MAX_PIXELS, open_image

Pixels = NDArray[np.uint8]
DecodeMode = Literal["exact", "fast"]

_LARGE = 40_000_000
_large_picture = threading.BoundedSemaphore(1)  # bounds memory: one very large picture at a time
_OVERSAMPLING = 2  # --decode fast keeps at least twice the pixels that are needed
_EXIF_ORIENTATION = 0x0112

# Of libjpeg's warnings those after which the pixels are made up; Pillow passes over them.
_DAMAGED = ("bad Huffman code", "premature end of data segment")

# What Pillow warns of (odd metadata, large pictures) is either refused here or has no effect.
warnings.filterwarnings("ignore", module=r"PIL\.")


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
        image = open_image(data)
        large = image.width * image.height > _LARGE
        with _large_picture if large else contextlib.nullcontext():
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
