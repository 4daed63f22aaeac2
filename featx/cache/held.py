"""One of several caches that are to be merged, looked at and closed again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.cache.distrust import json_object
from featx.cache.fingerprint import ExtractSpec
from featx.cache.format import INDEX
from featx.cache.lookup import hash_column
from featx.cache.stored import rows_of
from featx.cache.uniting import Told
from featx.cache.writing import Whole
from featx.errors import CacheFormatError
from featx.portion import Dealt


@dataclass(frozen=True)
class Held:
    """One cache, closed again: there may be more than a process can hold open.

    Parameters
    ----------
    state
        Of its file, to see that it is the same when it is opened again.
    """

    path: Path
    state: tuple[int, ...]
    whole: Whole
    n_rows: int
    widths: list[int]
    told: Told

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What it says of the run that made it."""
        try:
            return json_object(self.whole.provenance or "{}")
        except CacheFormatError as error:
            raise CacheFormatError(f"{self.path}: {error}") from None

    @cached_property
    def dealt(self) -> Dealt | None:
        """Which shards of a source it holds; None if it is of the whole."""
        return Dealt.from_dict(self.provenance.get("shard"))

    @property
    def spec(self) -> ExtractSpec:
        """What its features were computed by."""
        return self.whole.spec


def hold(path: Path) -> tuple[Held, NDArray[np.uint64]]:
    """Look at a cache.

    Returns
    -------
    held
    hashes : of the ids, shape (n_rows,)

    Raises
    ------
    CacheError
        If there is no such cache, or it is not to be trusted.
    """
    state = file_state(path)
    with rows_of(path) as (whole, stored):
        hashes = hash_column(stored.column("ids"))
        told = Told(path, stored.columns, whole.classes)
        return Held(path, state, whole, len(stored), stored.widths, told), hashes


def file_state(path: Path) -> tuple[int, ...]:
    """Say what changes when a cache is written anew; nothing where there is none."""
    try:
        found = (path / INDEX if path.is_dir() else path).stat()
    except OSError:
        return ()  # opening it says why
    return found.st_ino, found.st_size, found.st_mtime_ns
