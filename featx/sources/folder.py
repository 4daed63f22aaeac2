"""Walk a folder of images: what counts, what is passed over, and which links are followed."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featx.images import image_extensions
from featx.manifest import Manifest, Stamp, printable
from featx.portion import Dealing, Portion
from featx.sources.passed import PassedOver
from featx.sources.places import ReadFiles
from featx.sources.text import Prefixed, Text, shared

_BLOCK = 8192  # names that are Python objects at one time


@dataclass
class FoundFiles:
    """The images of a folder that are a portion's, sorted by id.

    ``stamps`` is int64, shape (n, 2): size in bytes and time of change in ns. ``odd`` are the
    paths that differ from the id, as the file system spells them. ``anyones`` is the number of
    images in the folder, whosever they are.
    """

    ids: Text
    stamps: NDArray[np.int64]
    odd: dict[int, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    ignored: PassedOver = field(default_factory=PassedOver)
    anyones: int = 0


class Listing:
    """Names and stamps on their way into columns: a block at a time is Python objects."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._stamps: list[tuple[int, int]] = []
        self._packed: list[Text] = []
        self._arrays: list[NDArray[np.int64]] = []

    def add(self, name: str, stamp: Stamp) -> None:
        """Take one more item."""
        self._names.append(name)
        self._stamps.append((stamp.size, stamp.mtime_ns))
        if len(self._names) == _BLOCK:
            self._pack()

    def _pack(self) -> None:
        self._packed.append(Text.of(self._names))
        self._arrays.append(np.array(self._stamps, np.int64).reshape(-1, 2))
        self._names, self._stamps = [], []

    def sorted(self) -> tuple[Text, NDArray[np.int64]]:
        """Give all names in order, and their stamps; nothing is left here."""
        self._pack()
        names = Text.joined(self._packed)
        self._packed.clear()
        order = names.order()
        names = names.take(order)
        stamps = np.concatenate(self._arrays)
        self._arrays.clear()
        return names, stamps[order]


def folder_manifest(root: Path, found: FoundFiles, dealing: Dealing) -> Manifest:
    """Make items of the images of a folder; its first level of folders are the classes."""
    folder = os.fspath(root)
    # What pathlib would make of it: no second slash after the root.
    inside = folder if folder.endswith(os.sep) else folder + os.sep
    return Manifest(
        name=folder,
        ids=found.ids,
        paths=Prefixed(printable(inside), found.ids),
        read=ReadFiles(
            Prefixed(inside, found.ids), {k: inside + path for k, path in found.odd.items()}
        ),
        labels=first_folders(found.ids),
        stamps=found.stamps,
        refused=found.refused,
        ignored_by_extension=dict(own_ignored(found.ignored, dealing.portion)),
        dealt=dealing.dealt,
    )


def own_ignored(ignored: Counter[str], portion: Portion) -> Counter[str]:
    """Count files that are no images once, for the first portion, and not for each."""
    return ignored if portion.number == 1 else Counter()


def first_folders(names: Iterable[str]) -> list[str | None] | None:
    """Label each name by its first folder, None where it has none; None if no name has."""
    found = shared(name.split("/", 1)[0] if "/" in name else None for name in names)
    return found if any(found) else None


def scan_folder(root: Path, dealing: Dealing) -> FoundFiles:
    """List the images below `root` that are the portion's; the names of others are not kept.

    Links to files are followed. A link to a folder is followed inside `root`; one that leads
    outside it, or back to a folder on the way to it, is refused and named.
    """
    walk = _Walk(root, dealing)
    walk.walk()
    ids, stamps = walk.found.sorted()
    return FoundFiles(
        ids=ids,
        stamps=stamps,
        odd=_places(ids, walk.odd),
        refused=dict(sorted(walk.refused.items())),
        ignored=walk.ignored,
        anyones=walk.anyones,
    )


def _places(ids: Text, odd: dict[str, str]) -> dict[int, str]:
    """Find the items whose path is not their id."""
    return {k: odd[name] for k, name in enumerate(ids) if name in odd} if odd else {}


class _Walk:
    def __init__(self, root: Path, dealing: Dealing) -> None:
        self.root, self.dealing = os.path.realpath(root), dealing
        self.folder = os.fspath(root)
        self.extensions = image_extensions()
        self.found = Listing()
        self.odd: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self.ignored = PassedOver()
        self.anyones = 0

    def walk(self) -> None:
        """Enter all folders; a list of those to come, for thousands may lie in one another."""
        waiting = [("", False)]
        while waiting:
            relative, hidden = waiting.pop()
            waiting += reversed(self.enter(relative, hidden=hidden))

    def enter(self, relative: str, *, hidden: bool) -> list[tuple[str, bool]]:
        """Take the files of one folder; give the folders in it, and whether they are hidden."""
        folders = []  # entered when this one is closed, so that few are open at a time
        try:
            with os.scandir(os.path.join(self.folder, relative)) as entries:  # noqa: PTH118 - fast
                for entry in entries:
                    path = f"{relative}{os.sep}{entry.name}" if relative else entry.name
                    below = hidden or entry.name.startswith(".")
                    if self._take(entry, path, hidden=below):
                        folders.append((path, below))
        except OSError as error:
            self._refuse(relative, f"the folder cannot be read: {error.strerror}")
        return folders

    def _take(self, entry: os.DirEntry[str], path: str, *, hidden: bool) -> bool:
        """Take a file; tell of anything else whether it is a folder to be entered."""
        try:
            is_folder = entry.is_dir()
        except OSError:
            is_folder = False
        if is_folder:
            return not entry.is_symlink() or self._may_follow(path, hidden=hidden)
        self._take_file(entry, path, hidden=hidden)
        return False

    def _take_file(self, entry: os.DirEntry[str], path: str, *, hidden: bool) -> None:
        extension = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - fast
        looping = entry.is_symlink() and not extension and _loops(entry)
        if hidden or (extension not in self.extensions and not looping):
            self.ignored.take(entry.name, hidden=hidden)
            return
        name = _identifier(path)
        mine = self.dealing.takes(name)
        if not mine and not entry.is_symlink():
            self.anyones += 1
            return
        try:
            status = entry.stat()
        except OSError as error:
            if mine:
                reason = "a loop of links" if error.errno == errno.ELOOP else "a link to nothing"
                self.refused[name] = reason if entry.is_symlink() else f"{error.strerror}"
            return
        self.anyones += 1
        if not mine:
            return
        self.found.add(name, Stamp(status.st_size, status.st_mtime_ns))
        if name != path:
            self.odd[name] = path

    def _may_follow(self, path: str, *, hidden: bool) -> bool:
        target = os.path.realpath(os.path.join(self.folder, path))  # noqa: PTH118
        parents = [path[:k] for k, letter in enumerate(path) if letter == os.sep]
        if hidden:
            self.ignored.take(path, hidden=True)
            return False
        if os.path.commonpath([target, self.root]) != self.root:
            self._refuse(path, "a link to a folder outside the source")
            return False
        # By links the way may have led through several folders: into none of them again.
        for parent in ("", *parents):
            lying = os.path.realpath(os.path.join(self.folder, parent))  # noqa: PTH118
            if os.path.commonpath([target, lying]) == target:
                self._refuse(path, "a loop of links")
                return False
        return True

    def _refuse(self, path: str, reason: str) -> None:
        name = _identifier(path)
        if self.dealing.takes(name):
            self.refused[name] = reason


def _loops(entry: os.DirEntry[str]) -> bool:
    try:
        entry.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _identifier(path: str) -> str:
    text = path.replace(os.sep, "/")
    return os.fsencode(text).decode("utf-8", "backslashreplace")
