"""Walk a folder of images: what counts, what is passed over, and what its folders say."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featx.columns import Prefixed, Text, shared
from featx.errors import UnreachableError
from featx.images import image_extensions, missing_extra
from featx.items import Manifest, Note, Stamp, note, printable
from featx.slices import Slice, SliceCounter
from featx.sources.fields import ALMOST_SPLITS, SPLITS
from featx.sources.places import ReadFiles


@dataclass
class FirstFolders:
    """The folders on the first level of a source, whosever slice their images are.

    ``deep`` are those with folders of images in them, ``shallow`` those with images of their own.
    """

    deep: set[str] = field(default_factory=set)
    shallow: set[str] = field(default_factory=set)

    def see(self, name: str) -> None:
        """Take the name of one image."""
        first, _, rest = name.partition("/")
        if rest:
            (self.deep if "/" in rest else self.shallow).add(first)

    def of(self, names: Iterable[str]) -> FirstFolders:
        """Take the names of many."""
        for name in names:
            self.see(name)
        return self

    @property
    def layout(self) -> str:
        """``split``: all folders are those of a split; ``one``: a single one is; else ``class``."""
        folders = self.deep | self.shallow
        meant = {SPLITS.get(name.lower()) for name in folders}
        if not meant or None in meant:
            return "class"
        if "train" in meant and len(meant) > 1:
            return "split"
        return "one" if len(folders) == 1 and not self.shallow else "class"

    def notes(self) -> tuple[Note, ...]:
        """Say of folders that look like a split beside others, which make classes of all."""
        folders = self.deep | self.shallow
        splits = sorted(name for name in folders if name.lower() in (*SPLITS, *ALMOST_SPLITS))
        meant = {SPLITS.get(name.lower(), name.lower()) for name in splits}
        others = sorted(name for name in folders if name.lower() not in SPLITS)
        few = meant.isdisjoint(("train", "training")) or len(meant) < 2
        if self.layout != "class" or few or not others:
            return ()
        text = (
            f"folders {', '.join(splits)} are taken as classes, for not all are called train, "
            f"validation or test ({', '.join(others[:3])}); rename or move these if the "
            "folders are a split"
        )
        return (note("split-folders-as-classes", text),)


def first_folders(names: Iterable[str]) -> list[str | None] | None:
    """Label each name by its first folder, None where it has none; None if no name has."""
    found = shared(name.split("/", 1)[0] if "/" in name else None for name in names)
    return found if any(found) else None


def labels_and_split(
    names: Iterable[str], folders: FirstFolders
) -> tuple[list[str | None] | None, list[str] | None]:
    """Read class and split of each image off its folders.

    Parameters
    ----------
    names
        With ``/``: ``class/...``, or ``train/class/...`` where the folders are those of a split.

    Examples
    --------
    >>> names = ["train/ant/1.png", "val/bee/2.png"]
    >>> labels_and_split(names, FirstFolders().of(names))
    (['ant', 'bee'], ['train', 'validation'])
    """
    if folders.layout == "class":
        return first_folders(names), None
    listed = list(names)
    labels = first_folders(name.partition("/")[2] for name in listed)
    if folders.layout == "one":
        return labels, None
    first = (name.partition("/") for name in listed)
    return labels, [SPLITS[folder.lower()] if slash else "" for folder, slash, _ in first]


_MOST_KINDS = 100  # a folder of x.0001, x.0002, ... has as many extensions as files
HIDDEN, OTHER = "hidden", "other"


class PassedOver(Counter[str]):
    """How many files were passed over, by lower-case extension with its dot.

    ``hidden`` stands for names that begin with a dot, ``other`` for those without an extension.

    Examples
    --------
    >>> passed = PassedOver()
    >>> for name in ("a.HEIC", "b/c.heic", "README"):
    ...     passed.take(name)
    >>> dict(passed), passed.total()
    ({'.heic': 2, 'other': 1}, 3)
    """

    def take(self, name: str, *, hidden: bool = False) -> None:
        """Count a file by its name."""
        kind = HIDDEN if hidden else os.path.splitext(name)[1].lower()  # noqa: PTH122 - fast
        self[kind if kind and (kind in self or len(self) < _MOST_KINDS) else OTHER] += 1


def extra_notice(passed: dict[str, int]) -> str | None:
    """Say which extra would read some of the files that were passed over; None if none would.

    Examples
    --------
    >>> extra_notice({".txt": 3}) is None
    True
    """
    found = {kind: extra for kind in passed if (extra := missing_extra(kind))}
    if not found:
        return None
    counts = ", ".join(f"{kind} {passed[kind]}" for kind in sorted(found))
    extras = ",".join(sorted(set(found.values())))
    return f"files that featx reads with an extra are passed over ({counts}): pip install " + (
        f"'featx[{extras}]'"
    )


CONTAINERS = (".tar", ".parquet", ".pq")
"""Extensions of files that may hold images."""

_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_OF_THE_SYSTEM = ("lost+found", "System Volume Information", "$RECYCLE.BIN")
_BLOCK = 8192  # names that are Python objects at one time


@dataclass
class FoundFiles:
    """The images of a folder that are a slice's, sorted by id.

    ``stamps`` is int64, shape (n, 2): size in bytes and state (`Stamp`). ``odd`` are the paths that
    differ from the id, as the file system spells them. ``anyones`` is the number of images in the
    folder, and ``folders`` are those they lie in, whosever they are. ``containers`` are names of
    tars and Parquet files.
    """

    ids: Text
    stamps: NDArray[np.int64]
    odd: dict[int, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    ignored: PassedOver = field(default_factory=PassedOver)
    anyones: int = 0
    folders: FirstFolders = field(default_factory=FirstFolders)
    containers: list[str] = field(default_factory=list)


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
        self._stamps.append((stamp.size, stamp.state))
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


def folder_manifest(root: Path, found: FoundFiles, dealing: SliceCounter) -> Manifest:
    """Make items of the images of a folder; the folders in it are the classes, or the split."""
    labels, split = labels_and_split(found.ids, found.folders)
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
        labels=labels,
        split=split,
        stamps=found.stamps,
        refused=found.refused,
        ignored_by_extension=dict(own_ignored(found.ignored, dealing.slice_)),
        dealt=dealing.dealt,
        notes=found.folders.notes(),
    )


def own_ignored(ignored: Counter[str], slice_: Slice) -> Counter[str]:
    """Count files that are not images once, for the first slice, and not for each."""
    return ignored if slice_.number == 1 else Counter()


def scan_folder(root: Path, dealing: SliceCounter) -> FoundFiles:
    """List the images below `root` that are the slice's; the names of others are not kept.

    Links to files and folders are followed, wherever they lead; one that leads back to a folder on
    the way to it, or above one, is refused and named.

    Raises
    ------
    UnreachableError
        If a folder cannot be listed: a listing that goes on without it would look as if its images
        were gone.
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
        folders=walk.folders,
        containers=sorted(walk.containers),
    )


def _places(ids: Text, odd: dict[str, str]) -> dict[int, str]:
    """Find the items whose path is not their id."""
    return {k: odd[name] for k, name in enumerate(ids) if name in odd} if odd else {}


class _Walk:
    def __init__(self, root: Path, dealing: SliceCounter) -> None:
        self.dealing, self.folder = dealing, os.fspath(root)
        self.extensions = image_extensions()
        self.found = Listing()
        self.odd: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self.ignored = PassedOver()
        self.anyones = 0
        self.folders = FirstFolders()
        self.containers: list[str] = []

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
            if not hidden and os.path.basename(relative) not in _OF_THE_SYSTEM:  # noqa: PTH119
                raise self._unlisted(relative, error) from None
            self.ignored.take(relative, hidden=hidden)
        return folders

    def _take(self, entry: os.DirEntry[str], path: str, *, hidden: bool) -> bool:
        """Take a file; tell of anything else whether it is a folder to be entered."""
        try:
            is_folder = entry.is_dir()
        except OSError as error:
            is_folder = False
            if error.errno not in _NOTHING_THERE and not hidden:
                raise self._unlisted(path, error) from None
        if is_folder:
            return not entry.is_symlink() or self._may_follow(path, hidden=hidden)
        self._take_file(entry, path, hidden=hidden)
        return False

    def _take_file(self, entry: os.DirEntry[str], path: str, *, hidden: bool) -> None:
        extension = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - fast
        broken = 0 if extension or not entry.is_symlink() else _broken(entry)
        if broken and broken != errno.ELOOP and not hidden:
            # It may be a folder that is not mounted now, and its rows would seem to be gone.
            raise self._unlisted(path, OSError(broken, "a link to nothing"))
        if hidden or (extension not in self.extensions and not broken):
            self.ignored.take(entry.name, hidden=hidden)
            if not hidden and extension in CONTAINERS and entry.is_file():
                self.containers.append(_identifier(path))
            return
        name = _identifier(path)
        mine = self.dealing.takes(name)
        if not mine and not entry.is_symlink():
            self._count(name)
            return
        try:
            status = entry.stat()
            stamp = Stamp.of(status)
        except OSError as error:
            if error.errno in _NOTHING_THERE:
                if mine:
                    reason = (
                        "a loop of links" if error.errno == errno.ELOOP else "a link to nothing"
                    )
                    self.refused[name] = reason if entry.is_symlink() else f"{error.strerror}"
                return
            stamp = Stamp()  # reading it will say why, and keep the row that it has
        self._count(name)
        if not mine:
            return
        self.found.add(name, stamp)
        if name != path:
            self.odd[name] = path

    def _count(self, name: str) -> None:
        self.anyones += 1
        self.folders.see(name)

    def _unlisted(self, relative: str, error: OSError) -> UnreachableError:
        place = os.path.join(self.folder, relative)  # noqa: PTH118
        return UnreachableError(
            f"{printable(place)} cannot be listed: {error.strerror or error}; nothing was changed, "
            "for its images would seem to be gone: make it readable, or take it out of the source"
        )

    def _may_follow(self, path: str, *, hidden: bool) -> bool:
        target = os.path.realpath(os.path.join(self.folder, path))  # noqa: PTH118
        parents = [path[:k] for k, letter in enumerate(path) if letter == os.sep]
        if hidden:
            self.ignored.take(path, hidden=True)
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


def _broken(entry: os.DirEntry[str]) -> int:
    """Number of the error with which a link leads nowhere; 0 where it leads somewhere."""
    try:
        entry.stat()
    except OSError as error:
        return error.errno or 0
    return 0


def _identifier(path: str) -> str:
    text = path.replace(os.sep, "/")
    return os.fsencode(text).decode("utf-8", "backslashreplace")
