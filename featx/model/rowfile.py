"""Predictions as CSV, Parquet or JSON lines, written row by row and published whole."""

from __future__ import annotations

import csv
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from featx.cache.durable import TEMPORARY, publish, raise_write_error, require_writable
from featx.errors import CacheError, ModelError

Row = dict[str, Any]
"""One line: name of the column -> text, number, or None."""

SUFFIXES = (".csv", ".parquet", ".pq", ".jsonl", ".ndjson")


class RowWriter(Protocol):
    """What takes rows; `close` ends the file."""

    def write(self, rows: list[Row]) -> None:
        """Write some rows."""

    def close(self) -> None:
        """Write what is left."""


def require_rows_target(path: Path, source: object = None) -> None:
    """Refuse a target that cannot be written, or is the source, before any work is done for it.

    Raises
    ------
    ModelError
        For a suffix that names no format.
    CacheError
        If it cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ModelError(
            f"predictions {path}: the suffix names no format; use one of {', '.join(SUFFIXES)}"
        )
    require_writable(path, "predictions", source)


@contextmanager
def open_rows(path: Path, columns: dict[str, type]) -> Iterator[RowWriter]:
    """Write rows into a file that appears under its name complete, or not at all.

    Parameters
    ----------
    path
        Its suffix is the format.
    columns
        Name and type (``str``, ``float`` or ``bool``) of each column.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        writer = _writer(path.suffix.lower(), temporary, columns)
        try:
            yield writer
        finally:
            writer.close()
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        publish(temporary, path)
    except OSError as error:
        if isinstance(error, CacheError):
            raise
        raise_write_error(error, path, 0)
    finally:
        temporary.unlink(missing_ok=True)


def _writer(suffix: str, path: Path, columns: dict[str, type]) -> RowWriter:
    if suffix == ".csv":
        return _Csv(path, list(columns))
    if suffix in (".parquet", ".pq"):
        return _Parquet(path, columns)
    return _Lines(path)


class _Csv:
    def __init__(self, path: Path, columns: list[str]) -> None:
        self.file = path.open("x", newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.file, columns)
        self.writer.writeheader()

    def write(self, rows: list[Row]) -> None:
        self.writer.writerows(rows)

    def close(self) -> None:
        self.file.close()


class _Lines:
    def __init__(self, path: Path) -> None:
        self.file = path.open("x", encoding="utf-8")

    def write(self, rows: list[Row]) -> None:
        for row in rows:
            self.file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")

    def close(self) -> None:
        self.file.close()


class _Parquet:
    def __init__(self, path: Path, columns: dict[str, type]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        types = {str: pa.string(), float: pa.float64(), bool: pa.bool_()}
        self.schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
        self.table = pa.Table
        self.writer = parquet.ParquetWriter(path, self.schema)

    def write(self, rows: list[Row]) -> None:
        self.writer.write_table(self.table.from_pylist(rows, schema=self.schema))

    def close(self) -> None:
        self.writer.close()
