"""The parts of a folder, as its index names them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import h5py

from featx.cache.format import INDEX, read_text
from featx.errors import CacheFormatError

_PART_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.h5", re.ASCII)


@dataclass(frozen=True)
class Part:
    """One part as the index names it: its rows are `start` to `stop` of the whole."""

    name: str
    start: int
    stop: int
    n_bytes: int
    digest: str


def file_digest(path: Path) -> str:
    """BLAKE2b-128 of the bytes of a file, as ``b2sum -l 128`` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def read_parts(index: h5py.File) -> list[Part]:
    """List the parts that an index names, in the order of their rows.

    Raises
    ------
    CacheFormatError
        If a name is not a plain one, or rows overlap or are missing.
    """
    names, digests = read_text(index["parts"]), read_text(index["part_digest"])
    spans, sizes = index["part_rows"][...].tolist(), index["part_bytes"][...].tolist()
    for name in names:
        if not _PART_NAME.fullmatch(name) or name == INDEX:
            raise CacheFormatError(f"{INDEX} names the part {name!r}, which is no plain name")
    if len(set(names)) != len(names):
        raise CacheFormatError(f"{INDEX} names a part twice")
    for before, (start, stop) in pairwise([(0, 0), *spans]):
        if start != before[1]:
            what = "overlap" if start < before[1] else "are missing"
            raise CacheFormatError(
                f"{INDEX}: rows {min(start, before[1])} to {max(start, before[1])} {what}"
            )
        if stop <= start:
            raise CacheFormatError(f"{INDEX} names a part of rows {start} to {stop}")
    return [
        Part(name, int(start), int(stop), int(size), digest)
        for name, (start, stop), size, digest in zip(names, spans, sizes, digests, strict=True)
    ]
