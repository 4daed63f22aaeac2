"""The rows of one cache, or of several one after the other, on their way into another."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.cache.folder import Folder, open_trusted
from featx.cache.format import BLOCK_ROWS, INDEX, read_text, values_of, vector_datasets
from featx.cache.h5file import json_object, json_text
from featx.cache.ids import hash_column
from featx.cache.unify import ColumnTypes, unite_columns, unite_labels
from featx.cache.verify import same_digests
from featx.cache.writing import FileFacts
from featx.errors import CacheError, CacheFormatError, CacheMismatchError
from featx.slices import SliceRecord, listed
from featx.spec import ExtractSpec, spec_difference
from featx.typing import JsonObject, RowValues


@contextmanager
def rows_of(path: Path) -> Iterator[tuple[FileFacts, CacheRows]]:
    """Open a cache, a file or a folder, as what is to be written again.

    Raises
    ------
    CacheError
        If there is no such cache, or it is not to be trusted.
    """
    file, spec = open_trusted(path)
    with file:
        provenance = json_text(file["provenance"]) if "provenance" in file else None
        classes = read_text(file["classes"]) if "classes" in file else None
        failed = {}
        if "failed/ids" in file:
            names, reasons = read_text(file["failed/ids"]), read_text(file["failed/reasons"])
            failed = dict(zip(names, reasons, strict=True))
        yield FileFacts(spec, provenance, classes, failed), CacheRows(path, file, spec)


class CacheRows:
    """The rows of an open cache; `featx.cache.writing.Rows` says what is asked of it."""

    def __init__(self, path: Path, file: h5py.File | Folder, spec: ExtractSpec) -> None:
        self._path, self._file = path, file
        self._vectors = vector_datasets(spec)
        self._spec = spec
        self.widths = [int(file[name].shape[1]) for name in self._vectors]
        names = ["ids", "paths", "content", "stamps", "row_digest", "labels", "split"]
        names += [f"columns/{name}" for name in file.get("columns", ())]
        self.columns: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            name: (file[name].dtype, file[name].shape[1:]) for name in names if name in file
        }

    def __len__(self) -> int:
        return int(self._file["features"].shape[0])

    def column(self, name: str) -> Any:
        """Give one of `columns`, to be read by slices."""
        return self._file[name]

    def read(self, rows: slice) -> tuple[list[NDArray[Any]], JsonObject]:
        """Read a stretch of rows, and check it."""
        try:
            vectors = [self._file[name][rows] for name in self._vectors]
            values = {name: self._file[name][rows] for name in self.columns}
        except OSError as error:
            if isinstance(error, CacheError):
                raise
            raise self._damaged(f"between row {rows.start} and row {rows.stop}") from None
        keys = (values["ids"], values["content"], vectors, values["row_digest"])
        if not (good := same_digests(*keys)).all():
            raise self._damaged(f"in row {rows.start + int(good.argmin())}")
        return vectors, values

    def tag(self, rows: slice) -> str:
        """Digest what makes the part of these rows; its vectors are in the digests of the rows."""
        kind = repr((self._spec.fingerprint, self.widths))
        digest = hashlib.blake2b(kind.encode(), digest_size=8)
        if "classes" in self._file:
            digest.update("\0".join(read_text(self._file["classes"])).encode())
        for name, (dtype, tail) in self.columns.items():
            digest.update(repr((name, dtype.str, tail)).encode())
            for start in range(rows.start, rows.stop, BLOCK_ROWS):
                here = slice(start, min(start + BLOCK_ROWS, rows.stop))
                values = values_of(self._file[name], here)
                text = b"\0".join(values.tolist()) if values.dtype.kind == "O" else values.tobytes()
                digest.update(text)
        return digest.hexdigest()

    def _damaged(self, where: str) -> CacheFormatError:
        return CacheFormatError(
            f"{self._path} is damaged {where}; `featx verify {self._path}` lists what, and "
            "`featx extract` computes it again"
        )


@dataclass(frozen=True)
class MergeInput:
    """One cache, closed again: there may be more than a process can hold open.

    Parameters
    ----------
    state
        Of its file, to see that it is the same when it is opened again.
    """

    path: Path
    state: tuple[int, ...]
    whole: FileFacts
    n_rows: int
    widths: list[int]
    told: ColumnTypes

    @cached_property
    def provenance(self) -> JsonObject:
        """Provenance: the record of the run that made it."""
        try:
            return json_object(self.whole.provenance or "{}")
        except CacheFormatError as error:
            raise CacheFormatError(f"{self.path}: {error}") from None

    @cached_property
    def dealt(self) -> SliceRecord | None:
        """Which shards of a source it holds; None if it is of the whole."""
        return SliceRecord.from_dict(self.provenance.get("shard"))

    @property
    def spec(self) -> ExtractSpec:
        """The spec of its features."""
        return self.whole.spec


def hold(path: Path) -> tuple[MergeInput, NDArray[np.uint64]]:
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
        told = ColumnTypes(path, stored.columns, whole.classes)
        return MergeInput(path, state, whole, len(stored), stored.widths, told), hashes


def file_state(path: Path) -> tuple[int, ...]:
    """Say what changes when a cache is written anew; nothing where there is none."""
    try:
        found = (path / INDEX if path.is_dir() else path).stat()
    except OSError:
        return ()  # opening it says why
    return found.st_ino, found.st_size, found.st_mtime_ns


_OF_A_RUN = ("command", "host", "started", "finished", "seconds", "embedded", "reused", "shard")


def require_whole(held: Sequence[MergeInput], partial: bool) -> SliceRecord | None:
    """Refuse shards that are not, together, the whole, unless a part is wanted.

    Returns
    -------
    dealt
        What the caches hold together; None if it is all of their source.

    Raises
    ------
    CacheError
        If shards are missing, given twice, or dealt from different listings.
    """
    shards = [(one.path, dealt) for one in held if (dealt := one.dealt) is not None]
    if len(held) == 1 and not shards:
        only = held[0].path
        raise CacheError(
            f"{only} is a single cache: nothing to merge. Name every slice's cache, or a folder "
            "made by `featx split`"
        )
    if not shards:
        return None
    path, first = shards[0]
    taken: dict[int, Path] = {}
    for other, dealt in shards:
        if dealt.of != first.of:
            raise CacheError(
                f"{path} holds {first} and {other} {dealt}; shards of one count alone go together"
            )
        for number in dealt.held:
            if number in taken:
                raise CacheError(f"shard {number}/{first.of} is in {taken[number]} and in {other}")
            taken[number] = other
    for other, dealt in shards:
        if (dealt.names, dealt.listing) != (first.names, first.listing) and not partial:
            raise CacheError(
                f"{path} was dealt from a source of {first.names} names, and {other} from another "
                f"listing, of {dealt.names}: the source changed in between; run the shards again, "
                "or pass --partial"
            )
    alike = all((d.names, d.listing) == (first.names, first.listing) for _, d in shards)
    joint = SliceRecord(tuple(sorted(taken)), first.of, first.names, first.listing if alike else "")
    if joint.missing and not partial:
        one = len(joint.missing) == 1
        raise CacheError(
            f"{'shard' if one else 'shards'} {listed(joint.missing)} of {joint.of} "
            f"{'is' if one else 'are'} missing (given: {listed(joint.held)}); extract "
            f"{'it' if one else 'them'}, or pass --partial to merge without"
        )
    return joint if joint.missing or not alike else None


def joint_provenance(held: Sequence[MergeInput], dealt: SliceRecord | None) -> JsonObject:
    """Say what all caches share as the first says it, and what is of each run in a list."""
    first = held[0].provenance
    runs = []
    for one in held:
        own = one.provenance
        kept = {k: v for k, v in own.items() if k in _OF_A_RUN or first.get(k) != v}
        runs.append({"cache": str(one.path), "rows": one.n_rows, **kept})
    return {
        **{name: value for name, value in first.items() if name not in _OF_A_RUN},
        "command": " ".join(sys.argv),
        "merged": runs,
        **({} if dealt is None else {"shard": dealt.to_dict()}),
    }


class ManyRows:
    """The rows of several caches, those of shards in the order of the shards.

    Parameters
    ----------
    partial
        Whether shards may be missing.

    Raises
    ------
    CacheError
        If the caches do not go together.
    """

    def __init__(self, paths: Sequence[Path], partial: bool) -> None:
        found = [hold(path) for path in paths]
        held = [one for one, _ in found]
        self._as_it_is = len(paths) == 1 and paths[0].is_dir()
        self.dealt = held[0].dealt if self._as_it_is else require_whole(held, partial)
        found.sort(key=lambda pair: _by_shard(pair[0]))
        self._all = [one for one, _ in found]
        # A shard that was dealt nothing has no rows, and its precision was never decided.
        self._held = [one for one in self._all if one.n_rows]
        if not self._held:
            raise CacheError(f"there are no rows in {listed(paths)}")
        self._require_alike()
        self._starts = np.cumsum([0, *(one.n_rows for one in self._held)])
        hashes = np.concatenate([hashes for _, hashes in found])
        del found
        self._require_unique_ids(hashes)
        told = [one.told for one in self._held]
        self._united = unite_columns(told)
        labels, self._classes = unite_labels(told)
        if labels is not None:
            self._united["labels"] = labels
        self.widths = self._held[0].widths
        self.columns = {name: column.kind for name, column in self._united.items()}
        self._open: tuple[int, CacheRows] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> ManyRows:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def whole(self) -> FileFacts:
        """The facts that are stated once for all rows."""
        first = self._held[0].whole
        if self._as_it_is:
            return first
        failed = {name: why for one in self._all for name, why in one.whole.failed.items()}
        provenance = joint_provenance(self._all, self.dealt)
        return FileFacts(first.spec, json.dumps(provenance), self._classes, failed)

    def _require_alike(self) -> None:
        first = self._held[0]
        for one in self._held[1:]:
            if changed := spec_difference(first.spec, one.spec):
                raise CacheMismatchError(
                    f"{one.path} was computed otherwise than {first.path}: {'; '.join(changed)}; "
                    "extract all shards with the same options, the precision among them"
                )
            if one.widths != first.widths:
                raise CacheError(f"{one.path} has other features than {first.path}")

    def _require_unique_ids(self, hashes: NDArray[np.uint64]) -> None:
        """Refuse an id that two caches have; `hashes` are those of all rows in their order."""
        ordered = np.sort(hashes)
        twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        seen: dict[str, MergeInput] = {}
        # Two ids may share a hash, so that the ids themselves decide.
        for row in np.flatnonzero(np.isin(hashes, twice)).tolist() if len(twice) else ():
            one, item = self._id(row)
            if item in seen:
                raise CacheError(
                    f"the id {item!r} stands in {seen[item].path} and in {one.path}; merge caches "
                    "of different images, and run shards again whose images moved"
                )
            seen[item] = one

    def _id(self, row: int) -> tuple[MergeInput, str]:
        k = int(np.searchsorted(self._starts, row, "right")) - 1
        one, at = self._held[k], row - int(self._starts[k])
        with rows_of(one.path) as (_, stored):
            return one, stored.column("ids")[at : at + 1][0].decode("utf-8", "replace")

    def _stored(self, k: int) -> CacheRows:
        """Open a cache for its rows; one at a time, for they are read in order."""
        if self._open is None or self._open[0] != k:
            self._stack.close()
            one = self._held[k]
            _, stored = self._stack.enter_context(rows_of(one.path))
            if file_state(one.path) != one.state:
                raise CacheError(f"{one.path} was written anew meanwhile; merge again")
            self._open = k, stored
        return self._open[1]

    def _inside(self, rows: slice) -> Iterator[tuple[int, slice]]:
        """Say in which caches rows lie, and where there."""
        first = int(np.searchsorted(self._starts, rows.start, "right")) - 1
        for k in range(first, len(self._held)):
            start, stop = int(self._starts[k]), int(self._starts[k + 1])
            if start >= rows.stop:
                return
            yield k, slice(max(rows.start, start) - start, min(rows.stop, stop) - start)

    def read(self, rows: slice) -> tuple[list[NDArray[Any]], JsonObject]:
        """Read a stretch of rows, each checked against its digest."""
        vectors: list[list[NDArray[Any]]] = []
        columns: dict[str, list[RowValues]] = {name: [] for name in self._united}
        for k, here in self._inside(rows):
            found, values = self._stored(k).read(here)
            vectors.append(found)
            for name, column in self._united.items():
                n_rows = here.stop - here.start
                columns[name].append(column.of(k, values.get(name), n_rows))
        joined = [np.concatenate(tap) for tap in zip(*vectors, strict=True)]
        return joined, {name: np.concatenate(values) for name, values in columns.items()}

    def tag(self, rows: slice) -> str:
        """Name a part by what is in it, and by what becomes of that."""
        pieces = [self._stored(k).tag(here) for k, here in self._inside(rows)]
        kinds = sorted((name, kind[0].str, kind[1]) for name, kind in self.columns.items())
        made = repr((pieces, kinds, self._classes))
        return hashlib.blake2b(made.encode(), digest_size=8).hexdigest()


def _by_shard(one: MergeInput) -> tuple[bool, tuple[int, ...]]:
    return (True, ()) if one.dealt is None else (False, one.dealt.held)
