"""WHAT: the ordered list of images to embed, by column; `featx.sources` holds what makes one."""

from __future__ import annotations

import hashlib
import os
import stat as stat_module
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featx.errors import GONE, ImageError, SourceError, UnreachableError, UnreadableError, nearest
from featx.labels import Labels
from featx.portion import WHOLE, Dealt, Portion

# Entries of a list are paths, pictures of Pillow, or arrays.
Source: TypeAlias = str | os.PathLike[str] | Sequence[Any]

Note: TypeAlias = "dict[str, str]"
"""Something to be said of a source: ``{"code", "message"}``."""

_MAX_FILE = 1 << 30  # bytes; more than any picture that the decode policy takes


@dataclass(frozen=True)
class Stamp:
    """What a file system says of a file: whatever changes when its content does; 0 is unknown.

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
    portion
        The part of it that is wanted.
    missing
        Texts that mean that a field is missing, beside the empty one.
    """

    portion: Portion = WHOLE
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
        ``id -> reason`` of entries that are no readable image; they count as failed.
    dealt
        Which portion of the source the items are; None if they are all of it.
    pages
        Page of its file that each item is, from 0, int32 of shape (n,); None if all are first.
    ignored_by_extension
        How many files were passed over that have each extension, in lower case; ``hidden`` and
        ``other`` stand for names that begin with a dot or have no extension. Of a source that is
        dealt out, the first portion counts them all.
    notes
        What was assumed in reading the source, and what looks like a mistake in it.
    """

    name: str
    ids: Sequence[str]
    paths: Sequence[str]
    read: Callable[[int], tuple[bytes, Stamp]]
    labels: Labels | None = None
    split: list[str] | None = None
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    stamps: NDArray[np.int64] | None = None
    refused: dict[str, str] = field(default_factory=dict)
    dealt: Dealt | None = None
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
        from featx.sources.text import first_duplicate

        if rows := first_duplicate(self.ids):
            # Of a portion the rows have other numbers than in the source.
            where = "twice" if self.dealt else f"in rows {rows[0] + 1} and {rows[1] + 1}"
            raise SourceError(
                f"{self.name}: id {self.ids[rows[0]]!r} stands {where}; ids must be unique: "
                "give each row its own in a column `id`, or rename one of two files"
            )


def load_manifest(
    source: Source, portion: Portion = WHOLE, *, missing: str | Sequence[str] = ()
) -> Manifest:
    """List the images of a source, or a portion of them, in a stable order.

    Parameters
    ----------
    source
        A folder (its first level of folders are the classes), a CSV or Parquet table with a
        column ``path``, Parquet with the images in it, tar shards, a data set that Hugging Face's
        `datasets` saved, a folder of such files, a pattern (``train-{000..099}.tar``, ``*.tar``),
        any of them behind a URL, a list of paths, pictures of Pillow or arrays, or the name of a
        built-in set (``elpv``, ``digits``). ``docs/sources.md`` describes each.
    portion
        Tars and Parquet files with images are dealt out as whole files, and those of others are not
        opened; a saved data set in stretches of rows; everything else by a hash of each id.
    missing
        Texts that mean that a field of a table is missing; only an empty one does without.

    Raises
    ------
    SourceError
        If there is no such source, or nothing in it that could be an image.
    MissingExtraError
        If it needs a package that is not installed.

    Examples
    --------
    >>> len(load_manifest("digits"))
    1797
    """
    from featx.datasets import BUILT_IN
    from featx.sources.dealing import deal_items
    from featx.sources.files import from_list
    from featx.sources.kinds import from_file, from_folder, from_pattern, from_url
    from featx.sources.patterns import is_pattern
    from featx.sources.remote import is_url

    if not isinstance(source, (str, os.PathLike)):
        return from_list(source, portion)
    text, path = os.fspath(source), Path(source)
    options = SourceOptions(portion, (missing,) if isinstance(missing, str) else tuple(missing))
    if text in BUILT_IN:
        if path.exists():
            raise SourceError(f"{text!r} is a built-in set and also a path here; write ./{text}")
        return deal_items(BUILT_IN[text](), portion)
    if text.startswith("file://"):
        return load_manifest(text.removeprefix("file://"), portion, missing=missing)
    if is_url(text):
        return from_pattern(text, options) if is_pattern(text) else from_url(text, options)
    mode = _mode_of(path)
    if stat_module.S_ISDIR(mode):
        return from_folder(path, options)
    if mode:
        if not stat_module.S_ISREG(mode):
            raise SourceError(f"{text} is a pipe or a device; write what it gives to a file first")
        return from_file(text, options)
    if is_pattern(text):
        return from_pattern(text, options)
    raise SourceError(
        f"no such folder, table or built-in set: {text}{nearest(text, BUILT_IN)} "
        f"(built in: {', '.join(BUILT_IN)})"
    )


def _mode_of(path: Path) -> int:
    """Kind of what lies at a path, 0 where nothing does."""
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno in GONE:
            return 0
        raise UnreachableError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError:  # a zero byte
        return 0


def read_file(path: str) -> tuple[bytes, Stamp]:
    """Read a whole regular file, and the stamp that it had then."""
    try:
        # Non-blocking, so that a pipe called x.jpg cannot stop the run.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            found = os.fstat(handle)
            if not stat_module.S_ISREG(found.st_mode):
                raise ImageError("not a regular file")
            if found.st_size > _MAX_FILE:
                raise ImageError(f"a file of {found.st_size} bytes; at most {_MAX_FILE} are read")
            return _read_all(handle, found.st_size), Stamp.of(found)
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise ImageError("file not found") from None
    except OSError as error:
        kind = ImageError if error.errno in GONE else UnreadableError
        raise kind(f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # a zero byte, which no name of a file can hold
        raise ImageError(f"cannot be read: {error}") from None


def _read_all(handle: int, size: int) -> bytes:
    """Read to the end with as few calls as can be; each lets go of the interpreter once."""
    data = os.read(handle, size + 1)
    if len(data) == size and size:
        return data  # the end, since more was asked for
    pieces = [data]
    while pieces[-1] and sum(map(len, pieces)) <= _MAX_FILE:
        pieces.append(os.read(handle, 1 << 20))
    return b"".join(pieces)


def printable(text: str) -> str:
    r"""Write bytes of a file name that are not UTF-8 as ``\xNN``."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")
