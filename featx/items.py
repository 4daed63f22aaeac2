"""WHAT: the ordered list of images to embed, by column; `featx.sources` makes one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featx.errors import SourceError, shown
from featx.labels import Labels
from featx.slices import WHOLE, Slice, SliceRecord
from featx.typing import RowValues

# Entries of a list are paths, pictures of Pillow, or arrays.
Source: TypeAlias = str | os.PathLike[str] | Sequence[Any]

Note: TypeAlias = "dict[str, str]"
"""Something to be said of a source: ``{"code", "message"}``."""


@dataclass(frozen=True)
class Stamp:
    """Facts of a file that change when its content does; 0 is unknown.

    Parameters
    ----------
    size
        In bytes.
    mtime_ns
        Time of the last change of the content, which programs can set back; of an object in a
        store, a number for the tag of its content.
    ctime_ns
        Time of the last change of anything, which programs cannot set.
    inode
        Number of the file: another one where a file has taken its place.
    """

    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    inode: int = 0

    @classmethod
    def of(cls, found: os.stat_result) -> Stamp:
        """Take what `os.stat` says."""
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)

    @property
    def state(self) -> int:
        """All but the size as one number, which is stored; `mtime_ns` where that is all.

        A digest lies in the distant past as a time, so that no clock takes it for a recent change.
        """
        if not (self.ctime_ns or self.inode):
            return self.mtime_ns
        text = b"%d %d %d" % (self.mtime_ns, self.ctime_ns, self.inode)
        digest = hashlib.blake2b(text, digest_size=8).digest()
        return 1 + (int.from_bytes(digest, "big") >> 5)


@dataclass(frozen=True)
class SourceOptions:
    """How a source is listed.

    Parameters
    ----------
    slice_
        The part of it that is wanted.
    missing
        Texts that mean that a field is missing, beside the empty one.
    """

    slice_: Slice = WHOLE
    missing: tuple[str, ...] = ()


def note(code: str, message: str) -> Note:
    """Make one entry of what is to be said of a source."""
    return {"code": code, "message": message}


@dataclass(frozen=True)
class Manifest:
    """The ordered list of items, held by column.

    Parameters
    ----------
    ids
        Unique names, UTF-8.
    paths
        Where each item is, as it is shown and stored.
    read
        Gives the bytes of item `i` and its `Stamp`; raises `ImageError` with the reason. What
        `load_manifest` gives can be pickled, and reads in another process as well.
    labels
        Class names (None where missing) or, for regression, float64 (NaN where missing); where rows
        have several, a tuple of names each.
    split
        ``train``, ``validation`` or ``test`` for each item, where the source says so.
    columns
        Every other column of the source; one called ``group`` keeps samples together in a fit.
    stamps
        int64, shape (n, 2): size and state (`Stamp`); zeros where unknown. Items of one container
        (a tar, a Parquet file) have the container's.
    refused
        ``id -> reason`` of entries that are not readable images; they count as failed.
    dealt
        Which slice of the source the items are; None if they are all of it.
    pages
        Page of its file that each item is, from 0, int32 of shape (n,); None if all are first.
    ignored_by_extension
        How many files were passed over that have each extension, in lower case; ``hidden`` and
        ``other`` stand for names that begin with a dot or have no extension. Of a source that is
        dealt out, the first slice counts them all.
    notes
        What was assumed in reading the source, and what looks like a mistake in it.
    """

    name: str
    ids: Sequence[str]
    paths: Sequence[str]
    read: Callable[[int], tuple[bytes, Stamp]]
    labels: Labels | None = None
    split: list[str] | None = None
    columns: dict[str, RowValues] = field(default_factory=dict)
    stamps: NDArray[np.int64] | None = None
    refused: dict[str, str] = field(default_factory=dict)
    dealt: SliceRecord | None = None
    notes: tuple[Note, ...] = ()
    pages: NDArray[np.int32] | None = None
    ignored_by_extension: dict[str, int] = field(default_factory=dict)

    @property
    def ignored(self) -> int:
        """Number of hidden and other files that were passed over."""
        return sum(self.ignored_by_extension.values())

    def page(self, item: int) -> int:
        """Page of its file that an item is, from 0."""
        return 0 if self.pages is None else int(self.pages[item])

    def __len__(self) -> int:
        return len(self.ids)

    def __post_init__(self) -> None:
        from featx.columns import first_duplicate

        if rows := first_duplicate(self.ids):
            # Of a slice the rows have other numbers than in the source.
            where = "twice" if self.dealt else f"in rows {rows[0] + 1} and {rows[1] + 1}"
            raise SourceError(
                f"{self.name}: id {shown(repr(self.ids[rows[0]]))} stands {where}; ids must be "
                "unique: give each row its own in a column `id`, or rename one of two files"
            )


def printable(text: str) -> str:
    r"""Write bytes of a file name that are not UTF-8 as ``\xNN``, and half a character of JSON."""
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:
        data = text.encode("utf-8", "surrogatepass")
    return data.decode("utf-8", "backslashreplace")
