"""Several caches become one: those of all shards of a source, or a folder of parts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featx.cache.format import INDEX
from featx.cache.lock import WriterLock
from featx.cache.many import ManyRows
from featx.cache.shards import remove_unfinished
from featx.cache.splitting import make_folder, require_apart, require_folder
from featx.cache.writing import write_file, write_folder
from featx.errors import CacheError
from featx.files import behind, require_writable


@dataclass(frozen=True)
class Merged:
    """What `merge` wrote.

    Parameters
    ----------
    parts
        Of a folder; 0 for one file.
    missing
        Shards that were not given, so that the cache is not of the whole source.
    """

    sources: list[str]
    cache: str
    rows: int
    failed: int
    parts: int
    bytes: int
    missing: list[int]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


def merge(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    cache: str | os.PathLike[str],
    *,
    force: bool = False,
    partial: bool = False,
) -> Merged:
    """Copy the rows of several caches into one.

    Shards (``featx extract --shard``) know of how many they are one, and of which names the source
    was dealt out: one that is missing, given twice, or dealt from another listing is refused, for
    rows would be lost, or be stale, in silence. Rows come in the order of the shards, whatever the
    order of `sources`; caches of whole sources follow in the order given.

    Parameters
    ----------
    sources
        Caches with one fingerprint and no id in common; or a single folder of parts, whose copy is
        one file.
    cache
        The file to write; or, if its name ends in a separator or is one, a folder of parts.
    partial
        Merge although shards are missing or were dealt from different listings; the cache then
        says of which shards it is.

    Raises
    ------
    CacheError
        If shards are missing, an id stands in two caches, labels do not go together, or `cache`
        exists and is not to be replaced.
    CacheMismatchError
        If the caches were computed otherwise.
    CacheFormatError
        If one is damaged.
    NoSpaceError
        If the disk has no room.

    Examples
    --------
    >>> from featx.cache import merge
    >>> merge(["part-1.h5", "part-2.h5"], "photos.h5")  # doctest: +SKIP
    """
    given = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    paths, target = [Path(source) for source in given], behind(Path(cache))
    if not paths:
        raise CacheError("no cache to merge is named")
    if target.name in ("", ".."):  # a lock lies beside it, under its name
        target = target.resolve()
    for path in paths:
        require_apart(path, target)
    with ManyRows(paths, partial) as rows:
        as_folder = target.is_dir() or os.fspath(cache).endswith(("/", os.sep))
        if not as_folder or not target.exists():
            require_writable(target, "merged cache")
        with WriterLock(target):
            if as_folder:
                require_folder(target, force)
                make_folder(target)
            elif target.exists() and not force:
                raise CacheError(f"{target} exists; name another file, or pass --force")
            remove_unfinished(target)
            parts = write_folder(target, rows.whole, rows) if as_folder else []
            if not as_folder:
                write_file(target, rows.whole, rows)
        size = (target / INDEX if as_folder else target).stat().st_size
        return Merged(
            sources=list(map(str, paths)),
            cache=str(cache),
            rows=len(rows),
            failed=len(rows.whole.failed),
            parts=len(parts),
            bytes=size + sum(part.n_bytes for part in parts),
            missing=[] if rows.dealt is None else rows.dealt.missing,
        )
