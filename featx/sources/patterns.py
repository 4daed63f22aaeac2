"""Patterns of file names: ``train-{000..099}.tar``; and lists of what lies behind a URL."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from featx.errors import GONE, SourceError, UnreachableError
from featx.items import Stamp
from featx.sources.addresses import is_http, require_named
from featx.sources.remote import ask, filesystem, is_url, refusal, stamp_from

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


def name_on_disk(url: str, name: str) -> str:
    """Read a name of a listing as its server has it on disk: over HTTP it is percent-encoded.

    Returns
    -------
    name : as it was where it stands for no name in UTF-8, or for one with a slash in it

    Examples
    --------
    >>> name_on_disk("https://x.org/photos", "K%C3%A4fer/1%20a.jpg")
    'Käfer/1 a.jpg'
    >>> name_on_disk("s3://bucket/photos", "K%C3%A4fer/1.jpg")
    'K%C3%A4fer/1.jpg'
    """
    if not is_http(url) or "%" not in name:
        return name
    try:
        found = unquote(name, errors="strict")
    except UnicodeDecodeError:
        return name
    same_folders = found.count("/") == name.count("/")
    return found if same_folders and "\0" not in found else name


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


def _walk(files: object, folder: str, levels: int | None = None) -> Iterator[_Entry]:
    """Yield the files below a folder, down to some levels of folders, or all of them.

    fsspec's own walk passes over a folder that cannot be listed.
    """
    try:
        entries = ask(files, "ls", folder, {"detail": True})
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
        found = ask(files, "find", folder, {"detail": True})
    except Exception as error:
        raise refusal(error, f"{_shown(files, folder)} cannot be listed") from None
    yield from sorted(found.items())
    files.invalidate_cache()


def _lists_at_once(files: Any) -> bool:
    """True if a store lists a whole tree by itself, and not by fsspec's walk."""
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    if isinstance(files, AsyncFileSystem):
        return type(files)._find is not AsyncFileSystem._find
    return type(files).find is not AbstractFileSystem.find


def _shown(files: Any, folder: str) -> str:
    return folder if is_url(folder) else str(files.unstrip_protocol(folder))


_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAX_NAMES = 1_000_000


def is_pattern(text: str) -> bool:
    """True if a name has braces or wildcards."""
    # A question mark in a URL begins its query.
    return any(mark in text for mark in ("{*[" if is_url(text) else "{*?["))


def expand_braces(text: str) -> list[str]:
    """Write out every name that braces stand for, as a shell does.

    Raises
    ------
    SourceError
        If braces hold neither a range nor a list, or stand for more than a million names.

    Examples
    --------
    >>> expand_braces("{train,val}-{08..10}.tar")[:3]
    ['train-08.tar', 'train-09.tar', 'train-10.tar']
    """
    pieces = _BRACES.split(text)
    if any("{" in piece or "}" in piece for piece in pieces[::2]):
        raise SourceError(f"{text}: braces that do not match; write as in train-{{000..099}}.tar")
    choices = [[p] if k % 2 == 0 else _choices(text, p) for k, p in enumerate(pieces)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > _MAX_NAMES:
        raise SourceError(f"{text} stands for {count:,} names; at most {_MAX_NAMES:,} are taken")
    return ["".join(parts) for parts in itertools.product(*choices)]


def _choices(text: str, inside: str) -> list[str]:
    if found := _RANGE.fullmatch(inside):
        first, last = found.groups()
        if int(last) - int(first) >= _MAX_NAMES:
            raise SourceError(f"{text}: the range {inside} is too long")
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        step = 1 if int(first) <= int(last) else -1
        return [str(k).zfill(width) for k in range(int(first), int(last) + step, step)]
    if "," in inside:
        return inside.split(",")
    raise SourceError(f"{text}: {{{inside}}} is neither a range as {{000..099}} nor a list")


def matching(text: str) -> list[str]:
    """Give the files or URLs of a pattern, in order; those written out need not be there.

    Raises
    ------
    SourceError
        If there is none.
    """
    found: list[str] = []
    for name in expand_braces(text):
        if not is_pattern(name):
            found.append(name)
        elif is_url(name):
            found += glob_remote(name)
        else:
            _require_listed(name)
            found += sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - absolute ones too
    if not found:
        raise SourceError(f"no file matches {text}")
    return list(dict.fromkeys(found))


def _require_listed(pattern: str) -> None:
    """List every folder that a pattern goes through; `glob` passes over those that it cannot.

    Raises
    ------
    UnreachableError
        If one cannot be listed.
    """
    above, _, last = pattern.rpartition("/")
    if not glob.has_magic(last) and glob.has_magic(above):
        _require_listed(above)
    if not glob.has_magic(last):
        return
    if glob.has_magic(above):
        _require_listed(above)
    folders = glob.glob(above, recursive=True) if glob.has_magic(above) else [above or "."]  # noqa: PTH207
    for folder in folders:
        if not Path(folder).is_dir():
            continue
        try:
            with os.scandir(folder or "/"):
                pass
            if last == "**":
                for _ in os.walk(folder, onerror=_raise):
                    pass
        except OSError as error:
            if error.errno not in GONE:
                place = error.filename or folder
                raise UnreachableError(f"{place} cannot be listed: {error.strerror}") from None


def _raise(error: OSError) -> None:
    raise error


def fixed_part(text: str) -> str:
    """Name the folder above the first brace or wildcard, with its slash.

    Examples
    --------
    >>> fixed_part("shards/train-{000..099}.tar")
    'shards/'
    """
    marks = r"[{*\[]" if is_url(text) else r"[{*?\[]"
    head = re.split(marks, text, maxsplit=1)[0]
    return head[: head.rfind("/") + 1]
