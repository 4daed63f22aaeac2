"""Tables, read block by block: of a portion, only its own rows are held.

Every field of a text table is text, letter for letter; Parquet says itself what is a number.
"""

from __future__ import annotations

import io
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
from featx.manifest import Note, printable
from featx.portion import Dealing
from featx.sources.arrow import classes_of, features_of, to_frame
from featx.sources.bounded import bounded_batches, require_rows
from featx.sources.dialect import Dialect, dialect_of
from featx.sources.remote import is_url, read_remote

TABLES = (".csv", ".tsv")
PARQUET = (".parquet", ".pq")

_BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class Table:
    """The rows of a portion of a table.

    Parameters
    ----------
    frame
        Its index is the number of each row in the table, from 0; missing fields are NaN or None.
    notes
        What was assumed in reading it.
    """

    frame: pd.DataFrame
    notes: tuple[Note, ...] = ()


def read_table(place: str, dealing: Dealing) -> Table:
    """Read the rows of a portion from a table, here or behind a URL.

    Raises
    ------
    SourceError
        If it is not a table.
    """
    try:
        data = read_remote(place) if is_url(place) else None
        if place.lower().endswith(PARQUET):
            return Table(_parquet_rows(place, data, dealing))
        dialect = dialect_of(place, data)
        return Table(_text_rows(place, data, dealing, dialect), dialect.notes)
    except FeatxError:
        raise
    except Exception as error:  # pandas and pyarrow raise a dozen types on a damaged table
        reason = words_of(error)
        raise SourceError(f"{place} cannot be read as a table: {reason}") from None


def _parquet_rows(place: str, data: bytes | None, dealing: Dealing) -> pd.DataFrame:
    kept, rows, start = [], [], 0
    with pq.ParquetFile(place if data is None else io.BytesIO(data)) as file:
        require_rows(place, file, Path(place).stat().st_size if data is None else len(data))
        for batch in bounded_batches(place, file):
            mine = _mine(batch, batch.schema.names, dealing)
            kept.append(batch if mine.all() else batch.filter(pa.array(mine)))
            rows.append(start + np.flatnonzero(mine))
            start += len(mine)
        schema = file.schema_arrow
        frame = to_frame(pa.Table.from_batches(kept, schema), classes_of(features_of(schema)))
    frame.index = np.concatenate([np.empty(0, np.int64), *rows])
    return frame


def _text_rows(place: str, data: bytes | None, dealing: Dealing, dialect: Dialect) -> pd.DataFrame:
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


def _mine(block: Any, names: Sequence[str], dealing: Dealing) -> NDArray[np.bool_]:
    """Tell which rows are the portion's, by the name that becomes the id."""
    n_rows = len(block)
    key = next((name for name in ("id", "path") if name in names), None)
    if dealing.portion.is_whole or key is None:
        dealing.names += n_rows
        return np.full(n_rows, dealing.portion.is_whole)
    values = block[key].to_pylist() if isinstance(block, pa.RecordBatch) else block[key]
    return np.fromiter((dealing.takes(printable(str(v))) for v in values), bool, n_rows)
