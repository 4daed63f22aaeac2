"""Predictions as CSV, Parquet or JSON lines, written row by row and published whole."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from featx.columns import excel_safe
from featx.errors import ModelError
from featx.files import Sequential, writing
from featx.targets import GENERATOR, require_writable

Row = dict[str, Any]
"""One line: name of the column -> text, number, or None."""

SUFFIXES = (".csv", ".parquet", ".pq", ".jsonl", ".ndjson")


class RowWriter(Protocol):
    """A writer of rows; `close` ends the file."""

    def write(self, rows: list[Row]) -> None:
        """Write some rows."""

    def close(self) -> None:
        """Write what is left."""


def require_rows_target(path: Path, *read: object, force: bool = False, safe: bool = False) -> None:
    """Refuse a target that cannot be written, or is the source, before any work is done for it.

    Raises
    ------
    ModelError
        For a suffix that names no format, or one other than CSV where formulas are to be escaped.
    CacheError
        If it cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ModelError(
            f"predictions {path}: the suffix names no format; use one of {', '.join(SUFFIXES)}"
        )
    if safe and path.suffix.lower() != ".csv":
        raise ModelError(
            f"predictions {path}: --excel-safe is for .csv; in other formats text is text"
        )
    require_writable(path, "predictions", *read, force=force)


@contextmanager
def open_rows(path: Path, columns: dict[str, type], *, safe: bool = False) -> Iterator[RowWriter]:
    """Write rows into a file that appears under its name complete, or not at all.

    Parameters
    ----------
    path
        Its suffix is the format.
    columns
        Name and type (``str``, ``float`` or ``bool``) of each column.
    safe
        Whether text of a CSV file is kept from being a formula: `featx.columns.excel_safe`.
    """
    with writing(path) as file:
        writer = _writer(path.suffix.lower(), file, columns, safe)
        try:
            yield writer
        finally:
            writer.close()


def _writer(suffix: str, file: Sequential, columns: dict[str, type], safe: bool) -> RowWriter:
    if suffix == ".csv":
        return _Csv(file, list(columns), safe)
    if suffix in (".parquet", ".pq"):
        return _Parquet(file, columns)
    return _Lines(file)


class _Csv:
    def __init__(self, file: Sequential, columns: list[str], safe: bool) -> None:
        self.safe = safe
        self.file, self.text = file, io.StringIO(newline="")
        self.writer = csv.DictWriter(self.text, columns)
        self.writer.writeheader()
        self._pass_on()

    def write(self, rows: list[Row]) -> None:
        if self.safe:
            rows = [{name: excel_safe(value) for name, value in row.items()} for row in rows]
        self.writer.writerows(rows)
        self._pass_on()

    def _pass_on(self) -> None:
        self.file.write(self.text.getvalue().encode())
        self.text.seek(0)
        self.text.truncate()

    def close(self) -> None:
        """Nothing is kept back."""


class _Lines:
    def __init__(self, file: Sequential) -> None:
        self.file = file

    def write(self, rows: list[Row]) -> None:
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
        self.file.write("".join(lines).encode())

    def close(self) -> None:
        """Nothing is kept back."""


class _Parquet:
    def __init__(self, file: Sequential, columns: dict[str, type]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        types = {str: pa.string(), float: pa.float64(), bool: pa.bool_()}
        self.schema = pa.schema(
            [(name, types[kind]) for name, kind in columns.items()], {GENERATOR: "predictions"}
        )
        self.table = pa.Table
        self.writer = parquet.ParquetWriter(file, self.schema)

    def write(self, rows: list[Row]) -> None:
        self.writer.write_table(self.table.from_pylist(rows, schema=self.schema))

    def close(self) -> None:
        self.writer.close()
