"""Pictures that a network was trained on, as short digests of their bytes in one line of text."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

KEY = "featx"
"""The only name in the metadata of a weights file of featx; a JSON object with ``seen``."""

Digests = NDArray[np.uint64]
_LETTERS = 16  # hexadecimal, of a SHA-256: eight bytes, so that a million pictures fit a header


def short_digests(contents: Iterable[bytes]) -> Digests:
    """Shorten SHA-256 digests in hexadecimal; an empty one, of no known content, becomes zero.

    Returns
    -------
    digests : uint64, one for each of `contents`
    """
    return np.array([int(bytes(c)[:_LETTERS] or b"0", 16) for c in contents], np.uint64)


def pack(digests: Digests) -> str:
    """Write digests as text, sorted and without repeats.

    Examples
    --------
    >>> unpack(pack(np.array([7, 3, 7], np.uint64))).tolist()
    [3, 7]
    """
    known = np.unique(digests[digests != 0])
    return base64.b64encode(known.astype("<u8").tobytes()).decode()


def unpack(text: str) -> Digests:
    """Read what `pack` wrote.

    Raises
    ------
    ValueError
        If the text is something else.
    """
    try:
        data = base64.b64decode(text, validate=True)
        return np.frombuffer(data, "<u8").astype(np.uint64)
    except (binascii.Error, ValueError):
        raise ValueError(
            f"not a list of pictures that a network was trained on: {text[:20]!r}"
        ) from None


def were_seen(contents: Iterable[bytes], text: str) -> NDArray[np.bool_]:
    """Tell which contents are among the pictures that a network was trained on."""
    found: NDArray[np.bool_] = np.isin(short_digests(contents), unpack(text))
    return found
