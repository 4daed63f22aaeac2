"""The decode policy: the choices of a run, all in the fingerprint, and what they do to samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featx.errors import FeatxError, ImageError
from featx.typing import JsonObject

POLICY = 2
"""Goes up whenever a file gives other pixels; `featx.spec` says what changed."""

_LEAST_BITS, _MOST_BITS = 9, 31
_MOST_BANDS = 65_535  # samples of a pixel that a TIFF can hold


@dataclass(frozen=True)
class DecodePolicy:
    """How files become pixels, as far as a run can choose.

    Parameters
    ----------
    mode
        ``exact``; ``fast``: a JPEG may be decoded at a reduced scale; or ``reference``: pictures
        are resized as the transform of the network's library does, bit for bit.
    bits
        The bits that values of more than 8 bits use, 9 to 31: 2 ** bits - 1 is white. None: all
        bits of the type.
    bands
        Numbers of the bands that are read, from 1: one is grey, three are red, green and blue.
        None: as the file says.

    Examples
    --------
    >>> DecodePolicy(bands=(3, 2, 1)).bands
    (3, 2, 1)
    """

    mode: DecodeMode = "exact"
    bits: int | None = None
    bands: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.bits is not None and not (
            _is_whole(self.bits) and _LEAST_BITS <= self.bits <= _MOST_BITS
        ):
            raise FeatxError(
                f"bits must be a whole number from {_LEAST_BITS} to {_MOST_BITS}, the bits that "
                f"deep pictures use; got {self.bits!r}"
            )
        if self.bands is not None:
            object.__setattr__(self, "bands", parse_bands(self.bands))


DEFAULT_POLICY = DecodePolicy()


def parse_bands(given: str | Sequence[int]) -> tuple[int, ...]:
    """Read the numbers of one or three bands, as ``3,2,1`` or as numbers.

    Raises
    ------
    FeatxError
        If they are not one or three numbers from 1.

    Examples
    --------
    >>> parse_bands("3,2,1"), parse_bands([4])
    ((3, 2, 1), (4,))
    """
    parts: Sequence[Any] = given.split(",") if isinstance(given, str) else given
    texts = [str(part).strip() for part in parts]
    right = all(text.isascii() and text.isdigit() and len(text) < 6 for text in texts)
    bands = tuple(int(text) for text in texts) if right else ()
    if len(bands) not in (1, 3) or not all(1 <= band <= _MOST_BANDS for band in bands):
        raise FeatxError(
            "bands must be one number (grey) or three (red, green, blue), counted from 1, as in "
            f"3,2,1; got {','.join(texts)!r}"
        )
    return bands


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def decoder_spec(policy: DecodePolicy = DEFAULT_POLICY) -> JsonObject:
    """Everything about decoding that can change a pixel, for the fingerprint."""
    chosen: JsonObject = {}
    if policy.bits is not None:
        chosen["bits"] = policy.bits
    if policy.bands is not None:
        chosen["bands"] = ",".join(map(str, policy.bands))
    return {
        "policy": POLICY,
        "mode": policy.mode,
        "colour": "RGB; CMYK converted; alpha on white; 16-bit scaled",
        "exif": "applied",
        "frame": 0,
        "pillow": version("pillow").split(".")[0],
        "simplejpeg": version("simplejpeg").split(".")[0],
        **chosen,
    }


def policy_of(spec: JsonObject) -> DecodePolicy:
    """Build the policy that `decoder_spec` described, as a cache or a model keeps it."""
    bands = spec.get("bands")
    return DecodePolicy(
        mode=spec["mode"], bits=spec.get("bits"), bands=parse_bands(bands) if bands else None
    )


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


DecodeMode = Literal["exact", "fast", "reference"]
