"""A look at the stored values of a picture, so that a run can say what its policy makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from featx.errors import ImageError
from featx.images.decoding import is_deep_png, read_deep_png
from featx.images.formats import MAX_PIXELS, open_image
from featx.images.policy import DEFAULT_POLICY
from featx.images.samples import Samples, white_of
from featx.images.tags import check_tiff
from featx.images.tiff import is_tiff, read_tiff

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
