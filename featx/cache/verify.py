"""Re-read every byte of a cache or shard and say which rows are damaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.cache.folder import Folder, Part, file_digest
from featx.cache.format import BLOCK_ROWS, ID_INDEX, INDEX, blocks, row_digest, vector_datasets
from featx.cache.h5file import is_sealed, open_file, seal_problem
from featx.cache.ids import index_problems
from featx.errors import CacheError, CacheFormatError, words_of
from featx.spec import ExtractSpec
from featx.typing import RowValues

_KEYS = ("/ids", "/content", "/row_digest")


@dataclass(frozen=True)
class Verification:
    """Result of `verify`.

    Parameters
    ----------
    rows
        Number of rows that were read again.
    problems
        One line for each.
    unsealed
        Names of files without a digest of the whole: older versions wrote none. Their rows are
        checked, and what stands beside the rows cannot be.
    """

    rows: int
    problems: tuple[str, ...]
    unsealed: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True if every byte is as it was written."""
        return not self.problems


def verify_file(path: Path) -> Verification:
    """Re-read every dataset of a file or of a folder's parts, and check each row's digest.

    Raises
    ------
    CacheError
        If there is no such cache.
    """
    try:
        if path.is_dir():
            with Folder(path) as folder:
                unsealed = () if is_sealed(path / INDEX) else (INDEX,)
                return Verification(len(folder), tuple(_folder_problems(folder)), unsealed)
        file, spec = open_file(path)
        with file:
            problems = _problems(file, spec)
            if not any(problem.startswith(_KEYS) for problem in problems):
                problems += _index_problems(file, file["ids"])
            problems = problems or _seal_problems(path)
            unsealed = () if is_sealed(path) else (path.name,)
            return Verification(int(file["features"].shape[0]), tuple(problems), unsealed)
    except CacheFormatError as error:
        return Verification(0, (str(error),))
    except CacheError:
        raise
    except Exception as error:  # damaged bytes make HDF5 and h5py raise a dozen types
        return Verification(0, (f"{path} is damaged: {words_of(error)}",))


def _seal_problems(path: Path) -> list[str]:
    problem = seal_problem(path) if is_sealed(path) else None
    return [] if problem is None else [problem]


def _folder_problems(folder: Folder) -> list[str]:
    problems = [f"index.h5: {found}" for found in _unreadable(folder.index, set())]
    whole = True
    for k, part in enumerate(folder.parts):
        found = _part_problems(folder, k, part)
        whole = whole and not found
        problems += found
    if whole:
        problems += _index_problems(folder.index, folder["ids"])
    seal = [f"{INDEX}: {found}" for found in _seal_problems(folder.path / INDEX)]
    return problems or seal


def _part_problems(folder: Folder, k: int, part: Part) -> list[str]:
    try:
        file = folder.part(k)
    except CacheError as error:
        return [str(error)]
    changed = file_digest(folder.path / part.name) != part.digest
    found = [f"part {part.name}: {problem}" for problem in _problems(file, folder.spec, part.start)]
    if changed and not found:
        found = [f"part {part.name}: its bytes are not those that the index means"]
    return found


def _problems(file: h5py.File, spec: ExtractSpec, start: int = 0) -> list[str]:
    """Problems of one file whose rows are `start` and the following of the whole."""
    problems = _unreadable(file, set(vector_datasets(spec)))
    if any(problem.startswith(_KEYS) for problem in problems):
        return problems
    damaged = np.flatnonzero(damaged_rows(file, spec))
    names = (file["ids"][row].decode("utf-8", "replace") for row in damaged)
    return problems + [
        f"row {start + row} ({name}) is damaged" for row, name in zip(damaged, names, strict=True)
    ]


def _index_problems(file: h5py.File, ids: h5py.Dataset) -> list[str]:
    try:
        return index_problems(file[ID_INDEX], ids) if ID_INDEX in file else []
    except (OSError, RuntimeError, ValueError, SystemError):
        return []  # its checksum is among the problems already


def _unreadable(file: h5py.File, vectors: set[str]) -> list[str]:
    problems: list[str] = []

    def visit(name: str, thing: object) -> None:
        if not isinstance(thing, h5py.Dataset) or name in vectors:
            return
        try:
            if not thing.ndim:
                thing[()]
            else:
                for start in range(0, thing.shape[0], BLOCK_ROWS):
                    thing[start : start + BLOCK_ROWS]
        except (OSError, RuntimeError, ValueError, SystemError):
            problems.append(f"/{name} fails its checksum")

    file.visititems(visit)
    return problems


def require_sound(path: Path) -> None:
    """Refuse a file that was just written, if a row reads back other than it was.

    Raises
    ------
    CacheError
        With the file and what to do.
    """
    file, spec = open_file(path)
    with file:
        if damaged_rows(file, spec).any():
            raise CacheError(f"{path} reads back other than it was written; check the disk")


def damaged_rows(file: h5py.File, spec: ExtractSpec) -> NDArray[np.bool_]:
    """Check every row against its checksum and digest.

    Returns
    -------
    damaged : bool, shape (n,)
    """
    names = vector_datasets(spec)
    n_rows = file["features"].shape[0]
    row_bytes = sum(file[n].shape[1] * file[n].dtype.itemsize for n in names)
    damaged = np.zeros(n_rows, bool)
    for rows in blocks(n_rows, row_bytes):
        damaged[rows] = ~_good(file, names, rows)
    return damaged


def _good(file: h5py.File, names: Sequence[str], rows: slice) -> NDArray[np.bool_]:
    try:
        vectors = [file[name][rows] for name in names]
    except (OSError, RuntimeError, ValueError, SystemError):
        # A checksum: find the chunk, one row at a time.
        if rows.stop - rows.start == 1:
            return np.zeros(1, bool)
        return np.concatenate(
            [_good(file, names, slice(row, row + 1)) for row in range(rows.start, rows.stop)]
        )
    ids, contents = file["ids"][rows], file["content"][rows]
    return same_digests(ids, contents, vectors, file["row_digest"][rows])


def same_digests(
    ids: RowValues,
    contents: RowValues,
    vectors: Sequence[NDArray[Any]],
    digests: RowValues,
) -> NDArray[np.bool_]:
    """Tell for each row whether its digest is that of what stands in it; text as stored."""
    return np.array(
        [
            row_digest(ids[k].decode("utf-8", "replace"), contents[k], [v[k] for v in vectors])
            == digests[k]
            for k in range(len(ids))
        ],
        bool,
    )
