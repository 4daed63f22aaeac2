"""One file becomes a folder of parts; nothing is computed again."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featx.cache.format import INDEX
from featx.cache.lock import WriterLock
from featx.cache.shards import remove_unfinished
from featx.cache.stored import rows_of
from featx.cache.writing import PART_ROWS, write_folder
from featx.errors import CacheError
from featx.files import TEMPORARY, behind, require_writable, sync_folder


@dataclass(frozen=True)
class Converted:
    """What `split` wrote."""

    source: str
    cache: str
    rows: int
    parts: int
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


def split(
    cache: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    rows: int = PART_ROWS,
    force: bool = False,
) -> Converted:
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
        return Converted(str(source), str(target), len(stored), len(parts), size)


def require_folder(target: Path, force: bool) -> None:
    """Refuse a folder that is a cache already or that holds what is not of one."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise CacheError(f"{target} is no folder; name another one")
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
