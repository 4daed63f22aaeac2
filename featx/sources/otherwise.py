r"""Find the file that a table names in another way: ``a\b.png``, another Unicode form or case."""

from __future__ import annotations

import os
import re
import unicodedata
from functools import lru_cache

from featx.errors import ImageError

_DRIVE = re.compile(r"(?:^|[/\\])([A-Za-z]:)(?:[/\\]|$)")
_SHARE = re.compile(r"(?:^|/)(\\\\[^\\/]+)")
_MOST = 64  # ways that are followed at a time


def settled(place: str) -> str:
    """Write a path with backslashes as the one file that it stands for, if there is one."""
    if "\\" not in place or "://" in place:
        return place
    try:
        return written_otherwise(place) or place
    except ImageError:
        return place


def written_otherwise(place: str) -> str | None:
    """Find the file that a path means which does not exist as it is written.

    Backslashes are folders; a name may be there in another Unicode form, else in another case.

    Returns
    -------
    path : None where there is something at `place`, so that the reason lies elsewhere

    Raises
    ------
    ImageError
        If no file fits, or several do.
    """
    if "\0" in place or os.path.lexists(place):
        return None
    if found := _DRIVE.search(place) or _SHARE.search(place):
        raise ImageError(
            f"file not found: a Windows path ({found.group(1)}) that is not on this machine; write "
            "paths relative to the table"
        )
    ways = _ways(place)
    best = min((rank for _, rank in ways), default=0)
    fitting = sorted({path for path, rank in ways if rank == best})
    if len(fitting) > 1:
        shown = ", ".join(os.path.basename(path) for path in fitting[:3])  # noqa: PTH119
        raise ImageError(f"file not found: {len(fitting)} others fit ({shown}); write one of them")
    if not fitting:
        why = "; with backslashes as folders neither" if "\\" in place else ""
        raise ImageError(f"file not found{why}")
    return fitting[0]


def _ways(place: str) -> list[tuple[str, int]]:
    """Files that fit, each with 1 where the Unicode form of a name differs, 2 where case does."""
    names = [name for name in re.split(r"[/\\]+", place) if name not in ("", ".")]
    ways = [("/" if place.startswith("/") else "", 0)]
    for name in names:
        ways = [
            (os.path.join(folder, other), max(rank, more))  # noqa: PTH118 - fast
            for folder, rank in ways[:_MOST]
            for other, more in _fitting(folder, name)
        ]
    return [(path, rank) for path, rank in ways if os.path.isfile(path)]  # noqa: PTH113 - fast


def _fitting(folder: str, name: str) -> list[tuple[str, int]]:
    if name == "..":
        return [(name, 0)]
    try:
        names = _names(folder or ".", os.stat(folder or ".").st_mtime_ns)  # noqa: PTH116
    except OSError:  # a folder may be passed through that cannot be listed
        return [(name, 0)] if os.path.lexists(os.path.join(folder, name)) else []  # noqa: PTH118
    form = _form(name)
    return [
        (other, 0 if other == name else 1 if _form(other) == form else 2)
        for other in names
        if _form(other).casefold() == form.casefold()
    ]


@lru_cache(256)
def _names(folder: str, _changed: int) -> tuple[str, ...]:
    return tuple(os.listdir(folder))  # noqa: PTH208 - fast


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)
