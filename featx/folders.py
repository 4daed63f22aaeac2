"""Walk a folder of images: what counts, what is passed over, and which links are followed."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featx.images import image_extensions


@dataclass
class FoundFiles:
    """The images of a folder, sorted by id.

    ``paths`` are relative to the folder, as the file system spells them; ``stamps`` is int64,
    shape (n, 2): size in bytes and time of change in ns.
    """

    ids: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    stamps: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), np.int64))
    refused: dict[str, str] = field(default_factory=dict)
    ignored: int = 0


def scan_folder(root: Path) -> FoundFiles:
    """List the images below `root`.

    Links to files are followed. A link to a folder is followed inside `root`; one that leads
    outside it, or back to a folder that it lies in, is refused and named.
    """
    walk = _Walk(root)
    walk.enter("", hidden=False)
    order = sorted(range(len(walk.paths)), key=lambda i: walk.ids[i])
    stamps = np.array(walk.stamps, np.int64).reshape(-1, 2)
    return FoundFiles(
        ids=[walk.ids[i] for i in order],
        paths=[walk.paths[i] for i in order],
        stamps=stamps[order],
        refused=dict(sorted(walk.refused.items())),
        ignored=walk.ignored,
    )


class _Walk:
    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self.folder = os.fspath(root)
        self.extensions = image_extensions()
        self.ids: list[str] = []
        self.paths: list[str] = []
        self.stamps: list[tuple[int, int]] = []
        self.refused: dict[str, str] = {}
        self.ignored = 0

    def enter(self, relative: str, *, hidden: bool) -> None:
        try:
            with os.scandir(os.path.join(self.folder, relative)) as entries:  # noqa: PTH118 - fast
                found = list(entries)
        except OSError as error:
            self._refuse(relative, f"the folder cannot be read: {error.strerror}")
            return
        for entry in found:
            path = f"{relative}{os.sep}{entry.name}" if relative else entry.name
            self._take(entry, path, hidden=hidden or entry.name.startswith("."))

    def _take(self, entry: os.DirEntry[str], path: str, *, hidden: bool) -> None:
        try:
            is_folder = entry.is_dir()
        except OSError:
            is_folder = False
        if is_folder:
            if not entry.is_symlink() or self._may_follow(path, hidden=hidden):
                self.enter(path, hidden=hidden)
            return
        extension = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - fast
        looping = entry.is_symlink() and not extension and _loops(entry)
        if hidden or (extension not in self.extensions and not looping):
            self.ignored += 1
            return
        try:
            status = entry.stat()
        except OSError as error:
            reason = "a loop of links" if error.errno == errno.ELOOP else "a link to nothing"
            self._refuse(path, reason if entry.is_symlink() else f"{error.strerror}")
            return
        self.ids.append(_identifier(path))
        self.paths.append(path)
        self.stamps.append((status.st_size, status.st_mtime_ns))

    def _may_follow(self, path: str, *, hidden: bool) -> bool:
        target = os.path.realpath(os.path.join(self.folder, path))  # noqa: PTH118
        here = os.path.realpath(os.path.dirname(os.path.join(self.folder, path)))  # noqa: PTH118,PTH120
        if hidden:
            self.ignored += 1
            return False
        if os.path.commonpath([target, self.root]) != self.root:
            self._refuse(path, "a link to a folder outside the source")
            return False
        if os.path.commonpath([target, here]) == target:
            self._refuse(path, "a loop of links")
            return False
        # Two links that lead into each other's folders would nest for ever.
        if path.count(os.sep) > 64:
            self._refuse(path, "links nested more than 64 deep")
            return False
        return True

    def _refuse(self, path: str, reason: str) -> None:
        self.refused[_identifier(path)] = reason


def _loops(entry: os.DirEntry[str]) -> bool:
    try:
        entry.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _identifier(path: str) -> str:
    text = path.replace(os.sep, "/")
    return os.fsencode(text).decode("utf-8", "backslashreplace")
