"""Images that are files of their own: a list of paths, or a table that names them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from featx.errors import SourceError
from featx.images import is_picture
from featx.manifest import Manifest, Note, note, printable
from featx.portion import Dealing, Portion
from featx.sources.addresses import require_named
from featx.sources.columns import table_columns, table_labels, table_split, table_text, without
from featx.sources.dealing import deal_items
from featx.sources.otherwise import settled
from featx.sources.pictures import from_pictures
from featx.sources.places import ReadFiles, join, parent
from featx.sources.remote import is_url
from featx.sources.tables import Table
from featx.sources.text import Text

LIST = "list of paths"
"""What a cache calls its source if it was a list."""


def from_list(source: Sequence[Any], portion: Portion) -> Manifest:
    """Take paths, URLs or pictures, in the order given, those of a portion by a hash of each id."""
    if any(is_picture(entry) for entry in source):
        return deal_items(from_pictures(source), portion)
    paths = [os.fspath(p) for p in source]
    if not paths:
        raise SourceError("the list of paths is empty")
    shown = Text.of(map(printable, paths))
    odd = {k: path for k, path in enumerate(paths) if printable(path) != path}
    return deal_items(Manifest(LIST, shown, shown, ReadFiles(shown, odd)), portion)


def from_table(place: str, read: Table, dealing: Dealing, missing: Sequence[str] = ()) -> Manifest:
    """Take the images that the column ``path`` names, relative to the table.

    Parameters
    ----------
    read
        The rows of the portion that was dealt out.
    missing
        Texts that mean that a field is empty.

    Raises
    ------
    SourceError
        If there is no such column, or a row that cannot be used.
    """
    table = without(read.frame, missing)
    if "path" not in table.columns:
        raise SourceError(
            f"{place} has no column `path` (it has {', '.join(map(str, table.columns)) or 'none'});"
            " name the column that holds the image files so"
        )
    if not dealing.names:
        raise SourceError(f"{place} has no rows")
    columns = table_columns(place, table)
    written = table_text(place, table, "path")
    folder = parent(place)
    if is_url(place):
        require_named(place, table["path"].astype(str))
    files = Text.of(printable(settled(join(folder, str(name)))) for name in table["path"])
    slanted = sum("\\" in str(name) for name in table["path"])
    return Manifest(
        name=place,
        ids=table_text(place, table, "id") if "id" in table.columns else written,
        paths=files,
        read=ReadFiles(files),
        labels=table_labels(place, table),
        split=table_split(place, table),
        columns=columns,
        dealt=dealing.dealt,
        notes=(*read.notes, *_slanted(place, slanted)),
    )


def _slanted(place: str, n_paths: int) -> list[Note]:
    if not n_paths:
        return []
    text = f"{place}: backslashes in {n_paths} paths are read as folders where no such file exists"
    return [note("backslashes", text)]
