"""Tables, read block by block: of a portion, only its own rows are held."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from featx.errors import FeatxError, SourceError, words_of
from featx.manifest import printable
from featx.portion import Dealing
from featx.sources.remote import is_url, read_remote

TABLES = (".csv", ".tsv")
PARQUET = (".parquet", ".pq")

_BLOCK_ROWS = 65_536
_NAMES: dict[str, Any] = {"path": str, "id": str, "split": str}


def read_table(place: str, dealing: Dealing) -> pd.DataFrame:
    """Read the rows of a portion from a table, here or behind a URL.

    Returns
    -------
    table
        Its index is the number of each row in the table, from 0.

    Raises
    ------
    SourceError
        If it is none.
    """
    try:
        data = read_remote(place) if is_url(place) else None
        rows = _parquet_rows if place.lower().endswith(PARQUET) else _text_rows
        return rows(place, data, dealing)
    except FeatxError:
        raise
    except Exception as error:  # pandas and pyarrow raise a dozen types on a damaged table
        reason = words_of(error)
        raise SourceError(f"{place} cannot be read as a table: {reason}") from None


def _parquet_rows(place: str, data: bytes | None, dealing: Dealing) -> pd.DataFrame:
    kept, rows, start = [], [], 0
    with pq.ParquetFile(place if data is None else io.BytesIO(data)) as file:
        for batch in file.iter_batches(_BLOCK_ROWS):
            mine = _mine(batch, batch.schema.names, dealing)
            kept.append(batch if mine.all() else batch.filter(pa.array(mine)))
            rows.append(start + np.flatnonzero(mine))
            start += len(mine)
        frame = pa.Table.from_batches(kept, file.schema_arrow).to_pandas()
    frame.index = np.concatenate([np.empty(0, np.int64), *rows])
    return frame


def _text_rows(place: str, data: bytes | None, dealing: Dealing) -> pd.DataFrame:
    types = _types(place, data)
    kept, start = [], 0
    for block in _text_blocks(place, data, types):
        mine = _mine(block, block.columns, dealing)
        block.index = range(start, start + len(block))
        kept.append(block[mine])
        start += len(block)
    frame = pd.concat(kept)
    # What pandas makes of truth values some of which are missing, when it reads all at once.
    odd = [name for name, kind in types.items() if kind == "boolean"]
    return frame.astype(dict.fromkeys(odd, object))


def _text_blocks(place: str, data: bytes | None, types: dict[str, Any]) -> Iterator[pd.DataFrame]:
    # Only an empty field is missing: "NA" and "None" are good names for a class.
    with pd.read_csv(
        place if data is None else io.BytesIO(data),
        sep="\t" if place.lower().endswith(".tsv") else ",",
        keep_default_na=False,
        na_values=[""],
        dtype=types,
        encoding="utf-8-sig",
        low_memory=False,
        chunksize=_BLOCK_ROWS,
    ) as blocks:
        for block in blocks:
            if not isinstance(block.index, pd.RangeIndex):  # pandas took a column for names of rows
                raise SourceError(
                    f"{place}: rows have more fields than the header has names; name every column"
                )
            yield block


def _types(place: str, data: bytes | None) -> dict[str, Any]:
    """Find the type of each column over all blocks, which is that of the whole table."""
    kinds: dict[str, set[str]] = {}
    for block in _text_blocks(place, data, _NAMES):
        for name in block.columns:
            kinds.setdefault(name, set()).update(_kinds(block[name]))
    return {name: _NAMES.get(name) or _common(found) for name, found in kinds.items()}


def _kinds(column: pd.Series) -> set[str]:
    """Say what one block of a column holds, and whether fields are missing."""
    there = column.dropna()
    gaps = {"missing"} if len(there) < len(column) else set()
    if not len(there):
        return gaps
    if pd.api.types.is_bool_dtype(there.infer_objects()):
        return {"bool", *gaps}
    if pd.api.types.is_integer_dtype(column):
        return {"negative" if (column < 0).any() else str(column.dtype)}
    return {"float" if pd.api.types.is_float_dtype(column) else "text", *gaps}


def _common(kinds: set[str]) -> Any:
    """Give the one type that all blocks of a column can have."""
    values = kinds - {"missing"}
    if values == {"bool"}:
        return "boolean" if "missing" in kinds else bool
    if "text" in values or "bool" in values or {"negative", "uint64"} <= values:
        return str
    if "float" in values or "missing" in kinds or not values:
        return np.float64
    return np.uint64 if "uint64" in values else np.int64


def _mine(block: Any, names: Sequence[str], dealing: Dealing) -> NDArray[np.bool_]:
    """Tell which rows are the portion's, by the name that becomes the id."""
    n_rows = len(block)
    key = next((name for name in ("id", "path") if name in names), None)
    if dealing.portion.is_whole or key is None:
        dealing.names += n_rows
        return np.full(n_rows, dealing.portion.is_whole)
    values = block[key].to_pylist() if isinstance(block, pa.RecordBatch) else block[key]
    return np.fromiter((dealing.takes(printable(str(v))) for v in values), bool, n_rows)
