"""The choices of the decode policy that a run can make; all of them are in the fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from featx.errors import FeatxError

DecodeMode = Literal["exact", "fast", "reference"]

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


def decoder_spec(policy: DecodePolicy = DEFAULT_POLICY) -> dict[str, Any]:
    """Everything about decoding that can change a pixel, for the fingerprint."""
    chosen: dict[str, Any] = {}
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


def policy_of(spec: dict[str, Any]) -> DecodePolicy:
    """Build the policy that `decoder_spec` described, as a cache or a model keeps it."""
    bands = spec.get("bands")
    return DecodePolicy(
        mode=spec["mode"], bits=spec.get("bits"), bands=parse_bands(bands) if bands else None
    )
