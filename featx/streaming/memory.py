"""The choice between fitting in memory and on features that stay in the file."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from featx.errors import FitError, nearest
from featx.heads import LARGE_ROWS, Head, for_many
from featx.streaming.choosing import STREAMED, streams

Asked = Literal["auto", "stream", "ram"]

COPIES = 6
"""How often the training rows are in memory at the peak of a search: rows, folds, scaled folds."""
MANY_CELLS = 1 << 26
"""Features (rows times columns) beyond which the streamed fit is the sooner one, too."""
_ASKED, _SOONER = "as asked", "many features: sooner than in memory"
_CANNOT = "it needs all rows in memory"
_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Memory:
    """Where features are held while a head is fitted.

    Parameters
    ----------
    streamed
        Whether they are read in blocks.
    line
        What to tell the user; empty where nothing is out of the ordinary.
    why
        What decided.
    """

    streamed: bool
    line: str = ""
    why: str = "it fits"

    def to_dict(self) -> dict[str, str]:
        """JSON-ready: ``way``, which `plan_memory` takes as `asked`, and ``why``."""
        return {"way": "stream" if self.streamed else "ram", "why": self.why}


def plan_memory(
    head: Head, task: str, rows: int, columns: int, asked: str = "auto", free: int | None = None
) -> Memory:
    """Decide by size against free memory.

    Parameters
    ----------
    rows, columns
        Of the training part.
    asked
        ``auto``, ``stream`` or ``ram``.
    free
        Bytes; read from the machine when None.

    Raises
    ------
    FitError
        For another word, a head that cannot stream and was asked to, or features so wide that
        their statistics do not fit either.

    Examples
    --------
    >>> from featx.heads import HEADS
    >>> plan_memory(HEADS["ridge"], "classification", 1_000_000, 1280, free=8 << 30).line
    'ridge on 1,000,000 x 1,280 features: about 28.6 GiB in memory, 8.0 GiB free; read in blocks'
    """
    if asked not in get_args(Asked):
        raise FitError(
            f"memory is {asked!r}{nearest(asked, get_args(Asked))}; expected auto, stream or ram"
        )
    if head.options:
        return _plan_options(head, task, rows, columns, asked)
    stand = for_many(head)
    can, there = streams(stand, task), free_bytes() if free is None else free
    needed = COPIES * 4 * rows * columns
    name = head.name if stand.name == head.name else f"{stand.name} in place of {head.name}"
    what = f"{name} on {rows:,} x {columns:,} features"
    if asked == "stream" and not can:
        raise FitError(
            f"head {head.name} as set up here needs all rows in memory; these stream with their "
            f"own grid: {', '.join(STREAMED)}"
        )
    sizes = f"about {_gib(needed)} in memory, {_gib(there)} free"
    # What is sooner does not decide where it is another head.
    sooner = stand.name == head.name and _many(can, rows, columns)
    if asked == "ram" or (asked == "auto" and needed <= there and not sooner):
        return Memory(False, why=_ASKED if asked == "ram" else "it fits")
    if not can:
        names = ", ".join(STREAMED)
        line = f"{head.name} on {rows:,} x {columns:,} features: {sizes}"
        return Memory(False, f"{line}; it may not fit, and these need less: {names}", _CANNOT)
    _require_statistics(what, columns, there)
    if asked == "stream":
        return Memory(True, f"{what}: read in blocks, as asked", _ASKED)
    if needed > there:
        return Memory(True, f"{what}: {sizes}; read in blocks", f"free memory: {sizes}")
    return Memory(True, f"{what}: read in blocks, which is sooner than in memory", _SOONER)


def _plan_options(head: Head, task: str, rows: int, columns: int, asked: str) -> Memory:
    """Decide by the number of features alone: free memory must not decide which head wins."""
    can = any(streams(for_many(option), task) for option in head.options)
    if asked == "stream" and not can:
        raise FitError(f"no head of {head.name} streams here; leave out --memory stream")
    if asked == "stream" or (asked == "auto" and rows > LARGE_ROWS and _many(can, rows, columns)):
        line = f"{head.name} on {rows:,} x {columns:,} features: read in blocks"
        return Memory(True, line, _ASKED if asked == "stream" else _SOONER)
    return Memory(False, why=_ASKED if asked == "ram" else "rows and columns are few enough")


def _many(can: bool, rows: int, columns: int) -> bool:
    return can and rows * columns > MANY_CELLS


def _require_statistics(what: str, columns: int, free: int) -> None:
    # Sums of all rows and of five folds, those of the blocks in flight, and an eigendecomposition.
    needed = 24 * 8 * columns**2
    if needed > free:
        raise FitError(
            f"{what}: sums of {columns:,} x {columns:,} products take {_gib(needed)} and "
            f"{_gib(free)} are free; take fewer features (another tap)"
        )


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"


def free_bytes() -> int:
    """Count the bytes that this process may still take: the machine's, or its control group's."""
    found = [_available()]
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        lent, taken = _number(_CGROUP / limit), _number(_CGROUP / used)
        if lent is not None and taken is not None:
            # Pages of files count as used and are given back when they are wanted.
            found.append(lent - taken + _file_pages((_CGROUP / limit).parent / "memory.stat"))
    return max(0, min(found))


def _available() -> int:
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if sys.platform == "win32" or "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return 4 << 30  # a modest guess where the system does not say
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max" says: no limit


def _file_pages(path: Path) -> int:
    try:
        lines = dict(line.split() for line in path.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(lines.get("inactive_file", 0)) + int(lines.get("active_file", 0))
