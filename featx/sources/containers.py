"""Containers: files that hold many items each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from featx.columns import Text
from featx.errors import SourceError, UnreachableError
from featx.items import Stamp
from featx.slices import SliceCounter
from featx.sources.places import stamp_of

T = TypeVar("T")


@dataclass(frozen=True)
class Container:
    """One container.

    Parameters
    ----------
    place
        Path or URL.
    name
        What its items' ids begin with: its name relative to the source.
    stamp
        Its size and time of change when it was listed.
    """

    place: str
    name: str
    stamp: Stamp = field(default=Stamp())


@dataclass
class ContainerContents(Generic[T]):
    """Containers with what was found in each, and those that cannot be read."""

    pairs: list[tuple[Container, T]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def deal_files(containers: Sequence[Container], dealing: SliceCounter) -> list[Container]:
    """Give the containers of a slice; the others are not opened."""
    mine = dealing.takes_of(container.name for container in containers)
    return [container for container in containers if container.name in mine]


def gather(containers: Sequence[Container], look: Callable[[Container], T]) -> ContainerContents[T]:
    """Look into every container, and go on where one is not there, or is damaged.

    Raises
    ------
    UnreachableError
        If the storage of one gives no answer.
    SourceError
        The reason of the first, if none can be read.
    """
    found: ContainerContents[T] = ContainerContents()
    first: SourceError | None = None
    for listed in containers:
        try:
            stamp = listed.stamp if listed.stamp.mtime_ns else stamp_of(listed.place)
            container = Container(listed.place, listed.name, stamp)
            found.pairs.append((container, look(container)))
        except UnreachableError:
            raise  # without it, its rows would look as if their images were gone
        except SourceError as error:
            first = first or error
            found.refused[listed.name] = str(error).removeprefix(f"{listed.place}: ")
    if first is not None and not found.pairs:
        raise first
    return found


def item_ids(names: Sequence[tuple[Container, Text]]) -> Text:
    """Write the name of its container before each item's own."""
    return Text.joined([own.prefixed(f"{container.name}/") for container, own in names])


def row_stamps(containers: Sequence[Container], counts: Sequence[int]) -> NDArray[np.int64]:
    """Give each item the stamp of its container, int64, shape (n, 2)."""
    stamps = np.array([(s.stamp.size, s.stamp.state) for s in containers], np.int64).reshape(-1, 2)
    return np.repeat(stamps, counts, axis=0)


def container_of(starts: NDArray[np.int64], item: int) -> int:
    """Find the container of an item by the first item of each; empty ones are passed over.

    Examples
    --------
    >>> container_of(np.array([0, 10, 10, 20]), 10)
    2
    """
    return int(np.searchsorted(starts, item, side="right")) - 1
