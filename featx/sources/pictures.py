"""Pictures of Pillow and arrays as a source: each is read as the file that holds it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from featx.errors import SourceError
from featx.images import file_of, is_picture
from featx.manifest import Manifest, Stamp, printable, read_file

PICTURES = "list of pictures"
"""What a cache calls its source if it was a list with pictures in it."""


@dataclass(frozen=True)
class ReadPictures:
    """Gives the bytes of pictures and of paths, whichever an entry is."""

    entries: Sequence[Any]

    def __call__(self, item: int) -> tuple[bytes, Stamp]:
        """Give the file of an entry, and what the file system says of it."""
        entry = self.entries[item]
        return read_file(os.fspath(entry)) if is_path(entry) else (file_of(entry), Stamp())


def from_pictures(source: Iterable[Any], ids: Sequence[str] | None = None) -> Manifest:
    """Take pictures, arrays and paths in the order given.

    Parameters
    ----------
    ids
        By default a path is its own id, and a picture's is its number, from 0.

    Raises
    ------
    SourceError
        If an entry is none of these.
    """
    entries = list(source)
    for k, entry in enumerate(entries):
        if not is_path(entry) and not is_picture(entry):
            raise SourceError(
                f"entry {k} of the list is of type {type(entry).__name__}; give paths, pictures of "
                "Pillow, or arrays"
            )
    shown = [
        printable(os.fspath(entry)) if is_path(entry) else f"image {k}"
        for k, entry in enumerate(entries)
    ]
    own = [shown[k] if is_path(entry) else str(k) for k, entry in enumerate(entries)]
    return Manifest(PICTURES, own if ids is None else ids, shown, ReadPictures(entries))


def is_path(value: object) -> bool:
    """Whether an entry of a list is a path."""
    return isinstance(value, (str, os.PathLike))
