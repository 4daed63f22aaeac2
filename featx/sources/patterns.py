"""Patterns of file names: ``train-{000..099}.tar``, ``{a,b}/*.tar``."""

from __future__ import annotations

import glob
import itertools
import os
import re
from pathlib import Path

from featx.errors import GONE, SourceError, UnreachableError
from featx.sources.listing import glob_remote
from featx.sources.remote import is_url

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAX_NAMES = 1_000_000


def is_pattern(text: str) -> bool:
    """Whether a name has braces or wildcards."""
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
