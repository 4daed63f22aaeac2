"""A portion of the items that one process holds anyway: a list of paths, a built-in set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.manifest import Manifest, Stamp
from featx.portion import Dealing, Portion
from featx.sources.text import Text


@dataclass(frozen=True)
class ReadSome:
    """Read some of the items of another reader: item `i` is its item ``items[i]``."""

    read: Callable[[int], tuple[bytes, Stamp]]
    items: NDArray[np.int64]

    def __call__(self, item: int) -> tuple[bytes, Stamp]:
        """Give the bytes of an item and its stamp."""
        return self.read(int(self.items[item]))


def deal_items(whole: Manifest, portion: Portion) -> Manifest:
    """Give the items of a portion, by a hash of each id."""
    if portion.is_whole:
        return whole
    dealing = Dealing(portion)
    items = np.flatnonzero([dealing.takes(name) for name in whole.ids])
    picked: list[int] = items.tolist()

    def some(values: Any) -> Any:
        if values is None or isinstance(values, np.ndarray):
            return None if values is None else values[items]
        return [values[item] for item in picked]

    return replace(
        whole,
        ids=Text.of(some(whole.ids)),
        paths=Text.of(some(whole.paths)),
        read=ReadSome(whole.read, items),
        labels=some(whole.labels),
        split=some(whole.split),
        columns={name: values[items] for name, values in whole.columns.items()},
        stamps=some(whole.stamps),
        dealt=dealing.dealt,
    )
