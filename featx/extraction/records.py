"""Records of loaded networks, kept so that the same request need not load one again.

A record holds the spec of the features and is found by everything that the spec depends on: the
options, the versions and files of the libraries, the machine and its devices. It also names the
file of the weights with its size, times and inode, so that another file is never taken for it.
Networks that are code of the user's own are not recorded.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from featx.extraction.options import ExtractOptions
from featx.files import cache_home, write_bytes
from featx.spec import ExtractSpec, library_versions
from featx.typing import JsonObject

_FORMAT = 3
_NO_PART = (
    *("dry_run", "force", "progress", "on_error", "max_failed", "shard", "pages", "labels"),
    *("missing", "allow_hosts", "precision", "compile"),
)
"""Options that play no part in what loading finds at a precision."""
_PLACES = ("HOME", "XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "PYTHONPATH")


@dataclass(frozen=True)
class Pace:
    """How fast images were embedded.

    Parameters
    ----------
    busy
        Seconds that the threads spent in each stage.
    done, seconds
        Images, and the time that they took.
    resident
        Memory of the process then, in bytes.
    """

    busy: Mapping[str, float]
    done: int
    seconds: float
    resident: int


@dataclass(frozen=True)
class Record:
    """The findings of one loading.

    Parameters
    ----------
    spec
        Of the features; its decoding and stored type are those of that run.
    device
        Where the network ran.
    widths
        Features of each tap.
    row_bytes
        Bytes of the vectors of one row.
    pace
        None where nothing was embedded.
    """

    spec: ExtractSpec
    device: str
    widths: dict[str, int]
    row_bytes: int
    pace: Pace | None = None


def recall(options: ExtractOptions, precision: str) -> Record | None:
    """Find the record of a request, or None; a file that has changed since makes it void."""
    if options.engine != "local":
        return None
    try:
        found = json.loads(_place(options, precision).read_text())
        if any(stamp_of(path) != stamp for path, stamp in found["files"]):
            return None
        pace = None if found["pace"] is None else Pace(**found["pace"])
        spec = ExtractSpec.from_json(found["spec"])
        return Record(spec, found["device"], found["widths"], found["row_bytes"], pace)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def remember(options: ExtractOptions, precision: str, record: Record, files: Sequence[str]) -> None:
    """Keep a record; where the folder cannot be written, there is none.

    Parameters
    ----------
    files
        Paths that the digest of the weights depends on; they may be absent.
    """
    if options.engine != "local":
        return
    place, pace = _place(options, precision), record.pace
    found = {
        "spec": record.spec.to_json(),
        "device": record.device,
        "widths": record.widths,
        "row_bytes": record.row_bytes,
        "pace": None if pace is None else {f.name: getattr(pace, f.name) for f in fields(pace)},
        "files": [(path, stamp_of(path)) for path in files],
    }
    if pace is None and (before := recall(options, precision)) and before.pace is not None:
        found["pace"] = {f.name: getattr(before.pace, f.name) for f in fields(before.pace)}
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(place, json.dumps(found).encode())
    except OSError:
        return


def stamp_of(path: str | os.PathLike[str]) -> list[int] | None:
    """Size, times of change in ns and inode of what lies at a path; None where nothing does."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def _place(options: ExtractOptions, precision: str) -> Path:
    given = {f.name: getattr(options, f.name) for f in fields(options) if f.name not in _NO_PART}
    key = {
        "format": _FORMAT,
        "options": {**given, **options.values(), "decode": options.decode or "exact"},
        "precision": precision,
        **_here(),
    }
    text = json.dumps(key, sort_keys=True, default=str)
    return cache_home() / "records" / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


@cache
def _here() -> JsonObject:
    """Everything of this machine and its libraries that could change what loading finds."""
    return {
        "versions": library_versions(),
        "featx": _own_code(),
        "python": [sys.version, sys.prefix],
        "machine": [platform.node(), platform.machine()],
        "devices": [
            sorted(map(str, Path("/dev").glob("nvidia*"))),
            os.environ.get("CUDA_VISIBLE_DEVICES"),
        ],
        "places": {name: os.environ.get(name) for name in _PLACES},
    }


def _own_code() -> str:
    """A digest of the sizes and times of featx's own files: a checkout changes with no version."""
    root, digest = Path(__file__).parent.parent, hashlib.sha256(str(Path(__file__)).encode())
    for folder, _, names in sorted(os.walk(root)):
        for name in sorted(names):
            if name.endswith((".py", ".csv")):
                found = Path(folder, name).stat()
                digest.update(f"{name} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()
