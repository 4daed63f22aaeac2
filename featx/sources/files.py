"""Images that are files of their own: a list of paths, or a table that names them."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence

import pandas as pd

from featx.errors import FeatxError, SourceError
from featx.manifest import Manifest, printable
from featx.sources.columns import table_columns, table_labels, table_split, table_text
from featx.sources.places import ReadFiles, join, parent
from featx.sources.remote import is_url, read_remote
from featx.sources.text import Text

LIST = "list of paths"
"""What a cache calls its source if it was a list."""

TABLES = (".csv", ".tsv")
PARQUET = (".parquet", ".pq")


def from_list(source: Sequence[str | os.PathLike[str]]) -> Manifest:
    """Take paths, or URLs, in the order given."""
    paths = [os.fspath(p) for p in source]
    if not paths:
        raise SourceError("the list of paths is empty")
    shown = Text.of(map(printable, paths))
    odd = {k: path for k, path in enumerate(paths) if printable(path) != path}
    return Manifest(LIST, shown, shown, ReadFiles(shown, odd))


def from_table(place: str, table: pd.DataFrame) -> Manifest:
    """Take the images that the column ``path`` names, relative to the table.

    Raises
    ------
    SourceError
        If there is no such column, or a row that cannot be used.
    """
    if "path" not in table.columns:
        raise SourceError(
            f"{place} has no column `path` (it has {', '.join(map(str, table.columns)) or 'none'});"
            " name the column that holds the image files so"
        )
    if not len(table):
        raise SourceError(f"{place} has no rows")
    columns = table_columns(place, table)
    written = table_text(place, table, "path")
    folder = parent(place)
    files = Text.of(printable(join(folder, str(name))) for name in table["path"])
    return Manifest(
        name=place,
        ids=table_text(place, table, "id") if "id" in table.columns else written,
        paths=files,
        read=ReadFiles(files),
        labels=table_labels(table),
        split=table_split(place, table),
        columns=columns,
    )


def read_table(place: str) -> pd.DataFrame:
    """Read a table, here or behind a URL.

    Raises
    ------
    SourceError
        If it is none.
    """
    try:
        source = io.BytesIO(read_remote(place)) if is_url(place) else place
        if place.lower().endswith(PARQUET):
            return pd.read_parquet(source)
        # Only an empty field is missing: "NA" and "None" are good names for a class.
        return pd.read_csv(
            source,
            sep="\t" if place.lower().endswith(".tsv") else ",",
            keep_default_na=False,
            na_values=[""],
            dtype={"path": str, "id": str, "split": str},
            encoding="utf-8-sig",
        )
    except FeatxError:
        raise
    except Exception as error:  # pandas and pyarrow raise a dozen types on a damaged table
        reason = " ".join(str(error).split())[:200]
        raise SourceError(f"{place} cannot be read as a table: {reason}") from None
