"""What the folders of images say: their classes, and the split where it is laid out so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from featx.manifest import Note, note
from featx.sources.columns import SPLITS
from featx.sources.text import shared


@dataclass
class FirstFolders:
    """The folders on the first level of a source, whosever portion their images are.

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
        splits = sorted(name for name in folders if name.lower() in SPLITS)
        meant = {SPLITS[name.lower()] for name in splits}
        others = sorted(folders - set(splits))
        if self.layout != "class" or "train" not in meant or len(meant) < 2 or not others:
            return ()
        text = (
            f"folders {', '.join(splits)} are taken as classes, for they lie beside others "
            f"({', '.join(others[:3])}); move those elsewhere if the former are a split"
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
