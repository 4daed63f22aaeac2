"""List what lies behind a URL: all of it, or an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from featx.manifest import Stamp
from featx.sources.addresses import require_named
from featx.sources.asking import ask, refusal
from featx.sources.remote import filesystem, is_url
from featx.sources.stamps import stamp_from

_Entry = tuple[str, dict[str, Any]]


def list_remote(url: str) -> Iterator[tuple[str, Stamp]]:
    """List what lies below a URL, by name relative to it, a first-level folder at a time.

    Raises
    ------
    UnreachableError
        If any folder cannot be listed: a listing that goes on without it would look as if its
        images were gone.
    SourceError
        If there is no such folder.
    """
    files, root = filesystem(url)
    files.invalidate_cache()  # else some stores repeat what they said to an earlier run
    cut = len(root.rstrip("/")) + 1
    for name, entry in _walk(files, root):
        require_named(url, [name[cut:]])
        yield name[cut:], stamp_from(entry)


def glob_remote(url: str) -> list[str]:
    """Give the URLs of the files that a pattern stands for, sorted.

    Raises
    ------
    UnreachableError
        If any folder that it may stand for cannot be listed.
    SourceError
        If there is no such folder.
    """
    from fsspec.utils import glob_translate

    files, path = filesystem(url)
    files.invalidate_cache()
    root = re.split(r"[*\[]", path, maxsplit=1)[0].rpartition("/")[0]
    levels = None if "**" in path else path.count("/", len(root) + 1) + 1
    fits = re.compile(glob_translate(path)).match
    found = sorted(name for name, _ in _walk(files, root, levels) if fits(name))
    require_named(url, found)
    return [name if is_url(name) else files.unstrip_protocol(name) for name in found]


def _walk(files: Any, folder: str, levels: int | None = None) -> Iterator[_Entry]:
    """Yield the files below a folder, down to some levels of folders, or all of them.

    fsspec's own walk passes over a folder that cannot be listed.
    """
    try:
        entries = ask(files, "ls", folder, detail=True)
    except Exception as error:
        raise refusal(error, f"{_shown(files, folder)} cannot be listed") from None
    for entry in sorted(entries, key=lambda entry: entry["name"]):
        name = entry["name"]
        if entry["type"] != "directory":
            yield name, entry
        elif name.rstrip("/") == folder.rstrip("/"):
            continue  # what some stores keep to mark a folder
        elif levels is None and _lists_at_once(files):
            yield from _all_below(files, name)
        elif levels is None or levels > 1:
            yield from _walk(files, name, levels and levels - 1)


def _all_below(files: Any, folder: str) -> Iterator[_Entry]:
    # One folder's names at a time are Python objects, and not all of a bucket's.
    try:
        found = ask(files, "find", folder, detail=True)
    except Exception as error:
        raise refusal(error, f"{_shown(files, folder)} cannot be listed") from None
    yield from sorted(found.items())
    files.invalidate_cache()


def _lists_at_once(files: Any) -> bool:
    """Whether a store lists a whole tree by itself, and not by fsspec's walk."""
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    if isinstance(files, AsyncFileSystem):
        return type(files)._find is not AsyncFileSystem._find
    return type(files).find is not AbstractFileSystem.find


def _shown(files: Any, folder: str) -> str:
    return folder if is_url(folder) else str(files.unstrip_protocol(folder))
