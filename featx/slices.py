"""Which part of a source is whose, when several commands share it: ``--shard K/N``.

Names are dealt out by a hash of the name, so that a new one moves no other; containers (tars,
Parquet files) in turn, in the order of their names, so that each slice gets as many as any other.
Every slice notes how many names there were and a digest of them all: slices of one listing make
the whole, with nothing twice, and those of different listings can be told apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from featx.errors import FeatxError, shown
from featx.typing import JsonObject

_RING = 1 << 64
_MOST = 1_000_000  # slices


@dataclass(frozen=True)
class Slice:
    """Slice `number`, from 1, of the `total` that a source is dealt out in.

    Examples
    --------
    >>> Slice.of("2/4"), str(Slice.of((2, 4)))
    (Slice(number=2, total=4), '2/4')
    """

    number: int = 1
    total: int = 1

    @classmethod
    def of(cls, given: Slice | str | Sequence[int] | None) -> Slice:
        """Take ``"2/4"`` or ``(2, 4)``; None is the whole.

        Raises
        ------
        FeatxError
            If it is neither, or the number is not one from 1 to the total.
        """
        if given is None or isinstance(given, Slice):
            return given or WHOLE
        parts: Sequence[Any] = given.split("/") if isinstance(given, str) else given
        if len(parts) != 2 or not all(_is_count(part) for part in parts):
            shown = given if isinstance(given, str) else "/".join(map(str, parts))
            raise FeatxError(f"shard must be K/N, as in 2/4 for the second of four; got {shown!r}")
        number, total = map(int, parts)
        if not 1 <= number <= total <= _MOST:
            raise FeatxError(
                f"shard {number}/{total}: K goes from 1 to N, and N from 1 to {_MOST:,}; "
                "write 2/4 for the second of four"
            )
        return cls(number, total)

    @property
    def is_whole(self) -> bool:
        """True if there is one slice, which holds everything."""
        return self.total == 1

    @property
    def shown(self) -> str | None:
        """The text in a result: empty for the whole."""
        return None if self.is_whole else str(self)

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"


WHOLE = Slice()


def _is_count(part: object) -> bool:
    if isinstance(part, str):
        return part.isascii() and part.isdigit() and len(part) < 10
    return isinstance(part, int) and not isinstance(part, bool)


@dataclass(frozen=True)
class SliceRecord:
    """The slice of the source that a cache holds, where it does not hold the whole.

    Parameters
    ----------
    held
        Numbers of the slices, ascending.
    of
        How many slices there are.
    names
        Names that were dealt out: images, rows or files.
    listing
        Digest of all of them, which no order changes.
    """

    held: tuple[int, ...]
    of: int
    names: int
    listing: str

    def to_dict(self) -> JsonObject:
        """The entry ``shard`` in the provenance of a cache."""
        return {
            "held": list(self.held),
            "of": self.of,
            "names": self.names,
            "listing": self.listing,
        }

    @classmethod
    def from_dict(cls, found: Any) -> SliceRecord | None:
        """Read it again; None where a cache is of the whole, or says nothing that can be read."""
        try:
            held = tuple(sorted(int(k) for k in found["held"]))
            dealt = cls(held, int(found["of"]), int(found["names"]), str(found["listing"]))
        except (KeyError, TypeError, ValueError):
            return None
        return dealt if held and 1 <= held[0] <= held[-1] <= dealt.of <= _MOST else None

    @property
    def slice_(self) -> Slice:
        """The one slice that is held; the whole where there are several."""
        return Slice(self.held[0], self.of) if len(self.held) == 1 else WHOLE

    @property
    def missing(self) -> list[int]:
        """Numbers of the slices that are not held."""
        return sorted(set(range(1, self.of + 1)) - set(self.held))

    def __str__(self) -> str:
        if len(self.held) == 1:
            return f"shard {self.held[0]}/{self.of}"
        return f"shards {listed(self.held)} of {self.of}"


def keeps(slice_: Slice, held: SliceRecord | None) -> bool:
    """Tell whether a run of `slice` keeps every row of a cache that holds `held`.

    The whole keeps what any slice holds, and a slice what is its own; another one would drop
    rows as if their images were gone. None is a cache of the whole.
    """
    if slice_.is_whole:
        return True
    return held is not None and held.slice_ == slice_


def listed(things: Sequence[object], most: int = 12) -> str:
    """Name some things, not all of very many, and the beginning of a long name.

    Examples
    --------
    >>> listed([1, 2, 4]), listed(range(1, 100), 3)
    ('1, 2, 4', '1, 2, 3 and 96 others')
    """
    named = ", ".join(shown(str(thing)) for thing in things[:most])
    return named if len(things) <= most else f"{named} and {len(things) - most} others"


@dataclass
class SliceCounter:
    """Names on their way to slices; one is looked at after the other, and none is kept."""

    slice_: Slice = WHOLE
    names: int = 0
    _sum: int = field(default=0, repr=False)

    def takes(self, name: str) -> bool:
        """Count a name, and tell whether it is the slice's."""
        self.names += 1
        if self.slice_.is_whole:
            return True
        value = self._count(name)
        return value % self.slice_.total == self.slice_.number - 1

    def takes_of(self, names: Iterable[str]) -> set[str]:
        """Deal files out in turn, in the order of their names, and give those of the slice."""
        ordered = sorted(names)
        self.names += len(ordered)
        if self.slice_.is_whole:
            return set(ordered)
        for name in ordered:
            self._count(name)
        return set(ordered[self.slice_.number - 1 :: self.slice_.total])

    def takes_rows(self, name: str, n_rows: int) -> range:
        """Cut the rows called `name` into stretches, one for each slice, and give its own."""
        self.names += n_rows
        number, total = self.slice_.number, self.slice_.total
        self._count(f"{name} {n_rows}")
        return range(n_rows * (number - 1) // total, n_rows * number // total)

    def _count(self, name: str) -> int:
        digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        value = int.from_bytes(digest, "big")
        self._sum = (self._sum + value) % _RING
        return value

    @property
    def dealt(self) -> SliceRecord | None:
        """The slices that this is one of; None if it is the whole."""
        if self.slice_.is_whole:
            return None
        number, total = self.slice_.number, self.slice_.total
        return SliceRecord((number,), total, self.names, f"{self._sum:016x}")
