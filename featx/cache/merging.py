"""Several caches become one, or one file becomes a folder of parts; nothing is embedded again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from featx.cache.format import INDEX
from featx.cache.lock import WriterLock
from featx.cache.rows import ManyRows, rows_of
from featx.cache.staging import remove_unfinished
from featx.cache.writing import PART_ROWS, write_file, write_folder
from featx.errors import CacheError
from featx.files import TEMPORARY, behind, sync_folder
from featx.targets import require_writable
from featx.typing import JsonObject


@dataclass(frozen=True)
class SplitResult:
    """The result of `split`."""

    source: str
    cache: str
    rows: int
    parts: int
    bytes: int

    def to_dict(self) -> JsonObject:
        """JSON-ready values."""
        return asdict(self)


def split(
    cache: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    rows: int = PART_ROWS,
    force: bool = False,
) -> SplitResult:
    """Copy a cache into a folder of parts, each a cache file of at most `rows` rows.

    A run that was stopped goes on from its complete parts. Until the index is there, the folder is
    no cache; with `force`, it stays the old one until then.

    Raises
    ------
    CacheError
        If `cache` has no rows, or `folder` exists and is not to be replaced, or holds other files.
    CacheFormatError
        If a row of `cache` is damaged.
    NoSpaceError
        If the disk has no room.

    Examples
    --------
    >>> from featx.cache import split
    >>> split("photos.h5", "photos", rows=100_000)  # doctest: +SKIP
    """
    source, target = Path(cache), behind(Path(folder))
    if target.name in ("", ".."):  # a lock lies beside it, under its name
        target = target.resolve()
    if rows < 1:
        raise CacheError(f"a part has at least 1 row; got {rows}")
    require_apart(source, target)
    with rows_of(source) as (whole, stored):
        if not target.exists():
            require_writable(target, "folder of parts")
        with WriterLock(target):
            require_folder(target, force)
            make_folder(target)
            remove_unfinished(target)
            parts = write_folder(target, whole, stored, rows)
        size = sum(part.n_bytes for part in parts) + (target / INDEX).stat().st_size
        return SplitResult(str(source), str(target), len(stored), len(parts), size)


def require_folder(target: Path, force: bool) -> None:
    """Refuse a folder that is a cache already or that holds what is not of one."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise CacheError(f"{target} is not a folder; name another one")
    names = [] if not target.exists() else sorted(path.name for path in target.iterdir())
    own = [n for n in names if n == INDEX or _is_part(n) or (n[0] == "." and n.endswith(TEMPORARY))]
    if others := set(names) - set(own):
        raise CacheError(f"{target} holds other files, as {min(others)}; name a new folder")
    if INDEX in own and not force:
        raise CacheError(f"{target} exists; name another folder, or pass --force to replace it")


def _is_part(name: str) -> bool:
    return name.startswith("part-") and name.endswith(".h5")


def require_apart(source: Path, target: Path) -> None:
    """Refuse to write a cache into itself."""
    here, there = source.resolve(), target.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise CacheError(f"{target} and {source} overlap; name another target")


def make_folder(target: Path) -> None:
    """Make a folder for parts, if it is not there, so that it lasts."""
    if target.exists():
        return
    try:
        target.mkdir()
    except OSError as error:
        raise CacheError(f"cannot create {target}: {error.strerror}") from None
    sync_folder(target.parent)


@dataclass(frozen=True)
class MergeResult:
    """The result of `merge`.

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

    def to_dict(self) -> JsonObject:
        """JSON-ready values."""
        return asdict(self)


def merge(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    cache: str | os.PathLike[str],
    *,
    force: bool = False,
    partial: bool = False,
) -> MergeResult:
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
        return MergeResult(
            sources=list(map(str, paths)),
            cache=str(cache),
            rows=len(rows),
            failed=len(rows.whole.failed),
            parts=len(parts),
            bytes=size + sum(part.n_bytes for part in parts),
            missing=[] if rows.dealt is None else rows.dealt.missing,
        )
