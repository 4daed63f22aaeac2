"""HDF5 files: opened with distrust, written whole or not at all, sealed by a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from featx.cache.format import (
    ENCODING_TYPE,
    GROUPS,
    INDEX,
    INDEX_TYPE,
    require_forms,
    vector_datasets,
)
from featx.cache.structure import check_heap, check_heaps, checked_datasets
from featx.errors import CacheError, CacheFormatError, words_of
from featx.files import replacing
from featx.spec import FORMAT_VERSION, ExtractSpec
from featx.targets import is_ours
from featx.typing import JsonObject

_HEAD, _HDF5 = 8192, b"\x89HDF\r\n\x1a\n"
_MAX_JSON = 64 << 20  # bytes
_ELSEWHERE = ("already open", "flag values", "close degree")
"""How HDF5 says that the file is open in this process with other settings."""


def is_cache(path: Path) -> bool:
    """Tell a cache from pictures: a file of HDF5, or a folder of parts."""
    if path.is_dir():
        return (path / INDEX).is_file()
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    # The signature stands at the start, or after a block of the writer's own (512, 1024, ...).
    places = (0, 512, 1024, 2048, 4096)
    return any(head[at : at + len(_HDF5)] == _HDF5 for at in places)


def open_file(path: Path) -> tuple[h5py.File, ExtractSpec]:
    """Open a cache file or a shard for reading, after checking every object in it.

    Raises
    ------
    CacheFormatError
        If it is not such a file, is damaged, or holds a link, external storage, a virtual dataset,
        an unknown filter, or a shape that does not fit.
    CacheError
        If there is no such file.
    """
    if not path.exists():
        raise CacheError(f"no such cache: {path}; `featx extract SOURCE {path}` writes one")
    return _open(path, _check_cache)


def open_index(path: Path) -> tuple[h5py.File, ExtractSpec]:
    """Open the index of a folder of parts in the same way.

    Raises
    ------
    CacheFormatError
        As `open_file`.
    """
    return _open(path, _check_index)


def _open(path: Path, check: Callable[[h5py.File], ExtractSpec]) -> tuple[h5py.File, ExtractSpec]:
    file = _open_file(path)
    try:
        check_heaps(path)
        return file, check(file)
    except CacheFormatError as error:
        file.close()
        raise CacheFormatError(f"{path}: {error}") from None
    except Exception as error:  # damaged bytes make HDF5 and h5py raise a dozen types
        file.close()
        reason = words_of(error, 400)
        raise CacheFormatError(f"{path} is damaged: {reason[:160]}") from None


def _open_file(path: Path) -> h5py.File:
    # Nothing ever writes to a published file, so no lock is needed to read it. HDF5 opens a file
    # again in one process only as it is open already: with locks, where h5py itself has opened it.
    reason = ""
    for locking in (False, None, True):
        try:
            # Each dataset that is open keeps so many bytes of chunks; HDF5 itself says 8 MiB.
            file = h5py.File(path, "r", locking=locking, rdcc_nbytes=2 << 20)
        except OSError as error:
            reason = words_of(error, 400)
            if "flag values" not in reason:
                break
        else:
            if locking is False or not _is_written(path):
                return file
            file.close()
            reason = "already open for write"
            break
    if any(words in reason for words in _ELSEWHERE):
        raise CacheError(
            f"{path} is open elsewhere in this process ({reason[:80]}); close it first"
        )
    if is_ours(path, "model"):
        raise CacheFormatError(f"{path} is not a featx cache: it is a model; name its cache")
    raise CacheFormatError(f"{path} is not a featx cache, or is cut off: {reason[:160]}")


def _is_written(path: Path) -> bool:
    """Tell whether a file is open for writing in this process."""
    there = h5py.h5f.get_obj_ids(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)
    names = {one.name for one in there if one.get_intent() & h5py.h5f.ACC_RDWR}
    return any(Path(name.decode("utf-8", "surrogateescape")).samefile(path) for name in names)


def _check_cache(file: h5py.File) -> ExtractSpec:
    datasets = _check_objects(file, ENCODING_TYPE, ("ids", "content", "row_digest", "features"))
    spec = _read_spec(file, datasets["spec"])
    _check_shapes(datasets, spec)
    return spec


def _check_index(file: h5py.File) -> ExtractSpec:
    names = ("parts", "part_rows", "part_bytes", "part_digest")
    datasets = _check_objects(file, INDEX_TYPE, names)
    spec = _read_spec(file, datasets["spec"])
    lengths: dict[str, int] = {}
    n_parts = datasets["parts"].shape
    if len(n_parts) == 1 and n_parts[0]:
        lengths["rows"] = int(datasets["part_rows"][-1, 1])
    require_forms(datasets, lengths)
    if not lengths["parts"]:
        raise CacheFormatError("/parts is empty")
    return spec


def _check_objects(file: h5py.File, kind: str, names: Sequence[str]) -> dict[str, h5py.Dataset]:
    """Every dataset by its name: each is looked up once, which is what opening a file costs."""
    found = _text_attribute(file, "encoding-type")
    if found != kind:
        what = "a featx cache" if kind == ENCODING_TYPE else "the index of a featx cache"
        raise CacheFormatError(f"not {what} (encoding-type {found!r})")
    version = _text_attribute(file, "encoding-version")
    if version != str(FORMAT_VERSION):
        raise CacheFormatError(
            f"format version {version}, and this featx reads {FORMAT_VERSION}; upgrade featx"
        )
    datasets = checked_datasets(file, "")
    for name in ("spec", *names):
        if name not in datasets:
            raise CacheFormatError(f"/{name} is missing")
    for name in (*GROUPS, *datasets):
        _ = name in file  # finds a damaged index of a group, which going through it does not
    return datasets


def _read_spec(file: h5py.File, dataset: h5py.Dataset) -> ExtractSpec:
    spec = ExtractSpec.from_json(json_text(dataset))
    if spec.fingerprint != _text_attribute(file, "fingerprint"):
        raise CacheFormatError("the fingerprint is not that of the spec inside")
    return spec


def _text_attribute(file: h5py.File, name: str) -> str:
    if name not in file.attrs:
        return ""
    attribute = file.attrs.get_id(name)
    # Of a damaged type HDF5 makes a list, and reads it from wherever its bytes point to.
    if not isinstance(attribute.get_type(), h5py.h5t.TypeStringID) or attribute.shape != ():
        return ""
    value = file.attrs[name]
    return value if isinstance(value, str) else ""


def json_text(dataset: h5py.Dataset) -> str:
    """Read ``spec`` or ``provenance``.

    Raises
    ------
    CacheFormatError
        If it is not one text of bearable length, or cannot be read.
    """
    if dataset.shape != ():
        raise CacheFormatError(f"{dataset.name} is not one JSON text")
    try:
        check_heap(dataset)
        value = dataset[()]
    except (OSError, ValueError, RuntimeError) as error:
        raise CacheFormatError(f"{dataset.name} cannot be read: {words_of(error)}") from None
    if not isinstance(value, bytes) or len(value) > _MAX_JSON:
        raise CacheFormatError(f"{dataset.name} is not one JSON text")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise CacheFormatError(f"{dataset.name} is not UTF-8 text") from None


def json_object(text: str) -> JsonObject:
    """Read what ``provenance`` says.

    Raises
    ------
    CacheFormatError
        If it is no JSON object.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise CacheFormatError("/provenance is no JSON object")
    return found


def _check_shapes(datasets: dict[str, h5py.Dataset], spec: ExtractSpec) -> None:
    shape = datasets["features"].shape
    if not shape:
        raise CacheFormatError("/features is one value, and should have rows of vectors")
    n_rows = shape[0]
    for name in vector_datasets(spec):
        dataset = datasets.get(name)
        if dataset is None or dataset.ndim != 2 or dataset.shape[0] != n_rows:
            raise CacheFormatError(f"/{name} should have {n_rows} rows of vectors")
        if dataset.dtype != np.dtype(spec.dtype):
            raise CacheFormatError(f"/{name} holds {dataset.dtype}, and its spec says {spec.dtype}")
    require_forms(datasets, {"rows": n_rows})


BLOCK_BYTES = 512
"""Size of the block; the digest is that of every byte behind it."""

_START = b"featx-cache digest blake2b-256 "
_HDF5 = b"\x89HDF\r\n\x1a\n"


def seal(file: IO[bytes]) -> None:
    """Write the block of a file that is complete but for it."""
    block = _block(file)
    file.seek(0)
    file.write(block)


def seal_problem(path: Path) -> str | None:
    """Compare the bytes of a file with the digest that it carries.

    Returns
    -------
    problem : None where every byte is as it was written, else what is wrong

    Raises
    ------
    OSError
        If it cannot be read.
    """
    with path.open("rb") as file:
        found = file.read(BLOCK_BYTES)
        if found == _block(file):
            return None
    return "its bytes are not those that were written: the digest of the whole file differs"


def is_sealed(path: Path) -> bool:
    """Tell whether a file has a block; those of older versions begin with HDF5 itself."""
    with path.open("rb") as file:
        return not file.read(len(_HDF5)) == _HDF5


def _block(file: IO[bytes]) -> bytes:
    file.seek(BLOCK_BYTES)
    digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()  # type: ignore[arg-type]
    text = _START + digest.encode() + b"\n"
    return text.ljust(BLOCK_BYTES - 1) + b"\n"


class _Sink:
    """The file under an HDF5 writer: after a failed write it swallows the rest.

    HDF5 flushes again while it closes, and a second failure there leaves it broken for the whole
    process. So the first error is kept, the library is let go quietly, and the error is raised
    after it.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while self.error is None and done < len(view):
            try:
                done += self.file.write(view[done:])
            except OSError as error:
                self.error = error
        return len(view)

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if self.error is None:
            return int(self.file.readinto(view))  # type: ignore[attr-defined]
        view[:] = bytes(len(view))
        return len(view)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def truncate(self, size: int | None = None) -> int:
        if self.error is None:
            try:
                return self.file.truncate(size)
            except OSError as error:
                self.error = error
        return size or 0

    def flush(self) -> None:
        """Nothing is buffered here."""


@contextmanager
def durable_h5(
    path: Path, *, needed: int = 0, check: Callable[[Path], None] | None = None
) -> Iterator[h5py.File]:
    """Write an HDF5 file that appears under its name complete, or not at all.

    Parameters
    ----------
    path, needed, check
        As `featx.files.replacing` takes them.

    Raises
    ------
    NoSpaceError, CacheError
        As `featx.files.replacing`.
    """
    with replacing(path, needed=needed, check=check) as file:
        sink = _Sink(file)
        try:
            # Each dataset that is open keeps so many bytes of chunks: they are filled one by one.
            with h5py.File(
                sink,
                "w",
                libver=("earliest", "v110"),
                rdcc_nbytes=2 << 20,
                userblock_size=BLOCK_BYTES,
            ) as made:
                yield made
        except OSError as error:
            if isinstance(error, CacheError):
                raise
            if sink.error is None:
                raise CacheError(f"cannot write {path}: {error.strerror or error}") from error
            raise sink.error from error
        if sink.error is not None:
            raise sink.error
        seal(file)
