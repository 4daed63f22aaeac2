"""Tables, read block by block: how a text table is written, and its rows."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from featx.errors import FeatxError, SourceError, words_of
from featx.items import Note, note, printable
from featx.slices import SliceCounter
from featx.sources.addresses import bare
from featx.sources.arrow import (
    MEANT,
    bounded_batches,
    classes_of,
    features_of,
    require_rows,
    to_frame,
    with_class_names,
)
from featx.sources.remote import is_url, read_remote

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_PIECE = 1 << 20  # bytes that are decoded at a time
_HEADER = 1 << 20  # bytes within which the header must end
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NO_TEXT = {
    b"\x1f\x8b": "compressed (gzip)",
    b"\xfd7zXZ": "compressed (xz)",
    b"\x28\xb5\x2f\xfd": "compressed (zstd)",
    b"PK\x03\x04": "an Excel workbook or another zip file",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x89HDF": "an HDF5 file",
}
_SHOWN = {
    "utf-16": "UTF-16",
    "utf-16-le": "UTF-16",
    "utf-16-be": "UTF-16",
    "utf-32": "UTF-32",
    "cp1252": "Windows-1252",
}
_SEP_LINE = re.compile(r'"?sep=(.)"?\r?\n?', re.IGNORECASE)


@dataclass(frozen=True)
class Dialect:
    """How one table is written.

    Parameters
    ----------
    encoding
        A codec of Python.
    separator
        One character.
    skipped
        Lines before the header.
    names
        Of the columns, as the header has them.
    notes
        What was assumed.
    """

    encoding: str
    separator: str
    skipped: int
    names: tuple[str, ...]
    notes: tuple[Note, ...] = ()


def dialect_of(place: str, data: bytes | None) -> Dialect:
    """Find out how a table is written, and refuse one that cannot be read without a guess.

    Parameters
    ----------
    data
        The whole table, where it does not lie on this machine.

    Raises
    ------
    SourceError
        If its characters are of no known encoding, or a name stands twice in its header.
    """
    encoding = _encoding_of(place, data)
    start = next(_pieces(place, data), b"")[:_HEADER]
    text = codecs.getincrementaldecoder(encoding)("replace").decode(start)
    told = _SEP_LINE.match(text)
    if told:  # what Excel reads, and writes, before a header
        text = text[told.end() :]
    usual = told.group(1) if told else "\t" if bare(place).lower().endswith(".tsv") else ","
    separator, names = (usual, _header(text, usual)) if told else _separator_of(text, usual)
    _require_distinct(place, names)
    notes = []
    if encoding in _SHOWN:
        text = f"{place} is read as {_SHOWN[encoding]}, not UTF-8; check names with accents"
        notes.append(note("table-encoding", text))
    if separator != usual:
        said = SEPARATORS.get(separator, repr(separator))
        text = f"{place} is read with {said} between its fields, not {SEPARATORS[usual]}"
        notes.append(note("table-separator", text))
    return Dialect(encoding, separator, int(bool(told)), tuple(names), tuple(notes))


def _pieces(place: str, data: bytes | None) -> Iterator[bytes]:
    with Path(place).open("rb") if data is None else io.BytesIO(data) as file:
        while piece := file.read(_PIECE):
            yield piece


def encoding_of_mark(start: bytes) -> str:
    r"""Name the codec that the byte order mark at the beginning of a text tells; else nothing.

    Examples
    --------
    >>> encoding_of_mark(b"\xef\xbb\xbfcat"), encoding_of_mark(b"cat")
    ('utf-8-sig', '')
    """
    return next((name for mark, name in _MARKS if start.startswith(mark)), "")


def _encoding_of(place: str, data: bytes | None) -> str:
    start = next(_pieces(place, data), b"")
    for magic, kind in _NO_TEXT.items():
        if start.startswith(magic):
            raise SourceError(f"{place} is {kind}, not text; save it as CSV")
    if name := encoding_of_mark(start):
        return name if name == "utf-8-sig" else _require(place, data, name)
    if wide := _without_mark(start[:4096]):
        return _require(place, data, wide)
    if _decodes(place, data, "utf-8"):
        return "utf-8-sig"
    return _require(place, data, "cp1252")


def _without_mark(start: bytes) -> str:
    """Tell UTF-16 that does not say so by the zeros beside each Latin letter."""
    for encoding, zeros, letters in (("utf-16-le", 1, 0), ("utf-16-be", 0, 1)):
        beside, own = start[zeros::2], start[letters::2]
        if len(beside) > 3 and beside.count(0) > 0.8 * len(beside) and not own.count(0):
            return encoding
    return ""


def _decodes(place: str, data: bytes | None, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for piece in _pieces(place, data):
            decoder.decode(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _require(place: str, data: bytes | None, encoding: str) -> str:
    if not _decodes(place, data, encoding):
        shown = _SHOWN.get(encoding, encoding)
        raise SourceError(f"{place} is neither UTF-8 nor {shown} text; save it as UTF-8")
    return encoding


def _separator_of(text: str, usual: str) -> tuple[str, list[str]]:
    """Choose what the header is separated by: what gives a known column, else the usual one."""
    own = _header(text, usual)
    if not _KNOWN.isdisjoint(own):
        return usual, own
    for other in SEPARATORS:
        names = _header(text, other)
        if len(names) > 1 and not _KNOWN.isdisjoint(name.strip() for name in names):
            return other, names
    return usual, own


_KNOWN = {"path", "id", "label"}


def _header(text: str, separator: str) -> list[str]:
    lines = (line for line in io.StringIO(text, newline="") if line.strip("\r\n"))
    try:
        return next(csv.reader(lines, delimiter=separator), [])
    except csv.Error:
        return []


def _require_distinct(place: str, names: list[str]) -> None:
    for k, name in enumerate(names):
        if name and name in names[:k]:
            raise SourceError(
                f"{place}: column {name!r} stands twice in the header (columns "
                f"{names.index(name) + 1} and {k + 1}); rename one or leave it out"
            )


TABLES = (".csv", ".tsv")
PARQUET = (".parquet", ".pq")

_BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class Table:
    """The rows of a slice of a table.

    Parameters
    ----------
    frame
        Its index is the number of each row in the table, from 0; missing fields are NaN or None.
    notes
        What was assumed in reading it.
    """

    frame: pd.DataFrame
    notes: tuple[Note, ...] = ()


def read_table(place: str, dealing: SliceCounter) -> Table:
    """Read the rows of a slice from a table, here or behind a URL.

    Raises
    ------
    SourceError
        If it is not a table.
    """
    try:
        data = read_remote(place) if is_url(place) else None
        if bare(place).lower().endswith(PARQUET):
            return Table(_parquet_rows(place, data, dealing))
        dialect = dialect_of(place, data)
        frame = _text_rows(place, data, dealing, dialect)
        return Table(frame, (*dialect.notes, *_line_breaks(place, frame)))
    except FeatxError:
        raise
    except Exception as error:  # pandas and pyarrow raise a dozen types on a damaged table
        reason = words_of(error)
        raise SourceError(f"{place} cannot be read as a table: {reason}") from None


def _line_breaks(place: str, frame: pd.DataFrame) -> list[Note]:
    """Say of fields with a meaning that go over several lines: a quote may not have been closed."""
    notes = []
    for name in (name for name in MEANT if name in frame.columns):
        rows = np.flatnonzero(frame[name].str.contains(r"[\r\n]", na=False).to_numpy())
        if rows.size:
            text = (
                f"{place}: column `{name}` goes over several lines in {rows.size} rows, first in "
                f"row {frame.index[rows[0]] + 1}; if rows are missing, a quote is not closed there"
            )
            notes.append(note("table-line-breaks", text))
    return notes


def _parquet_rows(place: str, data: bytes | None, dealing: SliceCounter) -> pd.DataFrame:
    kept, rows, start = [], [], 0
    with pq.ParquetFile(place if data is None else io.BytesIO(data)) as file:
        require_rows(place, file, Path(place).stat().st_size if data is None else len(data))
        for batch in bounded_batches(place, file):
            mine = _mine(batch, batch.schema.names, dealing)
            kept.append(batch if mine.all() else batch.filter(pa.array(mine)))
            rows.append(start + np.flatnonzero(mine))
            start += len(mine)
        schema = file.schema_arrow
        classes = classes_of(features_of(schema))
        table = with_class_names(place, pa.Table.from_batches(kept, schema), classes)
        frame = to_frame(place, table, classes)
    frame.index = np.concatenate([np.empty(0, np.int64), *rows])
    return frame


def _text_rows(
    place: str, data: bytes | None, dealing: SliceCounter, dialect: Dialect
) -> pd.DataFrame:
    kept, start = [], 0
    for block in _text_blocks(place, data, dialect):
        mine = _mine(block, block.columns, dealing)
        block.index = range(start, start + len(block))
        kept.append(block[mine])
        start += len(block)
    return pd.concat(kept)


def _text_blocks(place: str, data: bytes | None, dialect: Dialect) -> Iterator[pd.DataFrame]:
    # Only an empty field is missing: "NA" and "None" are good names for a class.
    with pd.read_csv(
        place if data is None else io.BytesIO(data),
        sep=dialect.separator,
        skiprows=dialect.skipped,
        keep_default_na=False,
        na_values=[""],
        dtype=str,
        encoding=dialect.encoding,
        low_memory=False,
        chunksize=_BLOCK_ROWS,
    ) as blocks:
        for block in blocks:
            if not isinstance(block.index, pd.RangeIndex):  # pandas took a column for names of rows
                raise SourceError(
                    f"{place}: rows have more fields than the header has names; name every column"
                )
            yield block


def _mine(block: Any, names: Sequence[str], dealing: SliceCounter) -> NDArray[np.bool_]:
    """Tell which rows are the slice's, by the name that becomes the id."""
    n_rows = len(block)
    key = next((name for name in ("id", "path") if name in names), None)
    if dealing.slice_.is_whole or key is None:
        dealing.names += n_rows
        return np.full(n_rows, dealing.slice_.is_whole)
    values = block[key].to_pylist() if isinstance(block, pa.RecordBatch) else block[key]
    return np.fromiter((dealing.takes(printable(str(v))) for v in values), bool, n_rows)
