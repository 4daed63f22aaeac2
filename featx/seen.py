"""Short digests of what was trained on: pictures of a network as text, rows of a head."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from typing import Any

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


SEEN_ROW = np.dtype([("id", "<u8"), ("content", "<u8")])
"""A training row of a model: the first eight bytes of two SHA-256."""


def digest_seen(ids: list[str], contents: NDArray[np.bytes_]) -> tuple[NDArray[Any], str]:
    """Digest the training rows: one entry each, and the SHA-256 of their sorted names."""
    names = hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()
    return short_rows(ids, contents), names


def short_rows(ids: list[str], contents: NDArray[np.bytes_]) -> NDArray[Any]:
    """Digest rows by name and content.

    Returns
    -------
    rows : `SEEN_ROW`, shape (len(ids),)
    """
    found = np.empty(len(ids), SEEN_ROW)
    found["id"] = [_short(name.encode()) for name in ids]
    found["content"] = [_short(bytes(content)) for content in contents]
    return found


def _short(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")
