"""Samples as files hold them, of any depth and number of bands, become 8-bit RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featx.errors import ImageError
from featx.images.policy import DecodePolicy

Pixels = NDArray[np.uint8]
Samples = NDArray[Any]

_WORD = 65_535  # white of 32-bit integers, unless --bits says otherwise


def white_of(dtype: np.dtype[Any], stored_bits: int, policy: DecodePolicy) -> float:
    """Value that is white: that of the type, or of the bits that the policy names.

    Parameters
    ----------
    dtype
        Type of the samples.
    stored_bits
        Bits of a sample in the file, 12 for example where two share three bytes.

    Raises
    ------
    ImageError
        If samples of this type cannot be read as grey levels.
    """
    if dtype.kind == "f":
        return 1.0
    if dtype.kind == "b":
        return 1.0
    if dtype.kind not in "iu" or dtype.itemsize > 4:
        raise ImageError(
            f"samples of type {dtype.name}; featx reads integers of up to 32 bits and floating "
            "point"
        )
    bits = stored_bits - (dtype.kind == "i")
    if policy.bits is not None and bits > 8:
        return 2.0 ** min(bits, policy.bits) - 1
    return _WORD if dtype.itemsize == 4 else 2.0**bits - 1


def scale(values: Samples, white: float, policy: DecodePolicy) -> Pixels:
    """Scale values from 0 to `white` to 0 to 255; nothing is clipped.

    Raises
    ------
    ImageError
        If a value lies outside, or is not a number.
    """
    if values.dtype == np.uint8 and white == 255:
        return values
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= white):  # also refuses NaN
        raise ImageError(
            f"pixel values from {low} to {high}; featx reads 0 to {white:g} here"
            f"{_way_out(values.dtype, float(low), float(high), policy)}"
        )
    wide: NDArray[Any] = values.astype(np.float64 if values.dtype.itemsize > 4 else np.float32)
    scaled: Pixels = np.rint(np.multiply(wide, 255.0 / white)).astype(np.uint8)
    return scaled


def _way_out(dtype: np.dtype[Any], low: float, high: float, policy: DecodePolicy) -> str:
    if dtype.kind == "f" or not low >= 0 or high >= 2**31:
        return "; scale the values first"
    bits = max(9, int(high).bit_length())
    named = "" if policy.bits is None else f" in place of --bits {policy.bits}"
    return f"; pass --bits {bits}{named} if these are pictures of {bits} bits"


def pick_bands(samples: Samples, bands: tuple[int, ...]) -> Samples:
    """Pick bands, counted from 1, of samples of shape (height, width, n_bands).

    Raises
    ------
    ImageError
        If the picture has fewer bands.
    """
    there = samples.shape[2]
    if max(bands) > there:
        asked = ",".join(map(str, bands))
        raise ImageError(
            f"{there} band{'s' if there > 1 else ''}, and --bands {asked} asks for band "
            f"{max(bands)}"
        )
    return samples[..., [band - 1 for band in bands]]


def refuse_bands(n_bands: int) -> ImageError:
    """Make the error for a picture whose bands have no colour that featx knows."""
    choice = "3,2,1" if n_bands > 2 else "1"
    return ImageError(
        f"{n_bands} bands, and the file does not say which are red, green and blue; choose by "
        f"number, as in --bands {choice}"
    )


def rgb_of(pixels: Pixels) -> Pixels:
    """Repeat a single band; shape (height, width, 1 or 3) becomes (height, width, 3)."""
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def on_white(pixels: Pixels, *, premultiplied: bool = False) -> Pixels:
    """Compose RGB and alpha, shape (height, width, 4), on white."""
    size = (pixels.shape[1], pixels.shape[0])
    mode = "RGBa" if premultiplied else "RGBA"
    rgba = Image.frombytes(mode, size, np.ascontiguousarray(pixels).tobytes()).convert("RGBA")
    composed = Image.alpha_composite(Image.new("RGBA", size, "white"), rgba)
    return np.array(composed.convert("RGB"))
