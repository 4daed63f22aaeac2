"""Parquet read in batches whose size is bounded, however well the file is packed.

One value of a megabyte, stored once and named by a million rows, is a file of a hundred kilobytes
and a terabyte in memory. So no batch can be larger than a bound, and they are counted as they come.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from featx.errors import SourceError

MOST_BYTES = 2 << 30
"""Of the columns of one table, or of the images of one row group, in memory."""

_MOST_BATCH_ROWS = 16_384
_ROWS_OF_BYTE = 64  # a row of any use takes more than an eighth of a bit
_ROWS_ALWAYS = 1_000_000


def require_rows(place: str, file: pq.ParquetFile, size: int) -> None:
    """Refuse a file that claims more rows than its bytes can tell apart.

    Raises
    ------
    SourceError
        Naming both.
    """
    n_rows = file.metadata.num_rows
    if not 0 <= n_rows <= size * _ROWS_OF_BYTE + _ROWS_ALWAYS:
        raise SourceError(f"{place} claims {n_rows} rows in {size} bytes")


def bounded_batches(
    place: str,
    file: pq.ParquetFile,
    *,
    columns: Sequence[str] | None = None,
    group: int | None = None,
) -> Iterator[pa.RecordBatch]:
    """Give the rows of a file, or of one row group, in batches.

    Raises
    ------
    SourceError
        If they hold more than `MOST_BYTES`.
    """
    total = 0
    for number in range(file.num_row_groups) if group is None else [group]:
        for batch in file.iter_batches(
            _batch_rows(file.metadata.row_group(number), columns),
            row_groups=[number],
            columns=None if columns is None else list(columns),
        ):
            total += batch.nbytes
            if total > MOST_BYTES:
                raise SourceError(
                    f"{place} holds more than {MOST_BYTES} bytes "
                    f"{'of columns' if group is None else f'in row group {group}'} in memory; "
                    "write smaller files, or row groups of fewer images"
                )
            yield batch


def _batch_rows(group: pq.RowGroupMetaData, columns: Sequence[str] | None) -> int:
    """Count the rows of a batch that fits, even if each of them held all values of the group."""
    found = (group.column(k) for k in range(group.num_columns))
    values = sum(
        column.total_uncompressed_size
        for column in found
        if columns is None or column.path_in_schema.split(".", 1)[0] in columns
    )
    return int(min(_MOST_BATCH_ROWS, max(1, MOST_BYTES // max(1, values))))
