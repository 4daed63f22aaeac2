"""Maps of a picture: exact, before the pooling; or by covering its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from featx.backbones.reader import TapReader
from featx.images import Pixels

_APART = 1e-5  # of the largest value of the vector: a mean summed in another order


def map_before_pooling(
    reader: TapReader, image: Tensor, tap: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float32]] | None:
    """Find the map that becomes the vector of a tap by its mean over height and width.

    Every tensor that the network computes is looked at: the last with more than one place whose
    means are the vector is the map. So it is found in front of a pooling layer, of a pooling that
    is only a call, and at a layer that gives maps itself.

    Parameters
    ----------
    reader
        In float32.
    image
        uint8, shape (1, height, width, 3).
    tap
        Number of the tap.

    Returns
    -------
    map : float64, shape (n_features, height, width)
    vector : float32, shape (n_features,)
        None, and no vector, where no map has these means: the network does more than average.
    """
    with torch.no_grad():
        vector = reader(image)[tap][0]
        found = _search(reader, image, vector)
    return None if found is None else (found.double().numpy(), vector.numpy())


def _search(reader: TapReader, image: Tensor, vector: Tensor) -> Tensor | None:
    search = _Search(vector)
    with search:
        reader(image)
    return search.found


class _Search(TorchFunctionMode):
    """Keep the last tensor seen whose means over its places are the vector."""

    def __init__(self, vector: Tensor) -> None:
        super().__init__()
        self.vector = vector
        self.found: Tensor | None = None
        self.most = _APART * float(vector.abs().max())

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._look(args)
        result = func(*args, **(kwargs or {}))
        self._look(result)
        return result

    def _look(self, values: Any) -> None:
        for value in _tensors(values):
            if value.ndim != 4 or len(value) != 1 or not value.is_floating_point():
                continue
            for axes, layout in (((2, 3), (0, 1, 2)), ((1, 2), (2, 0, 1))):
                rest = ({1, 2, 3} - {*axes}).pop()
                places = value.shape[axes[0]] * value.shape[axes[1]]
                if value.shape[rest] == len(self.vector) and places > 1:
                    means = value.mean(axes, dtype=torch.float32)[0]
                    if float((means - self.vector).abs().max()) <= self.most:
                        self.found = value[0].permute(layout).float().clone()


def _tensors(values: Any) -> Iterable[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)


CELLS = 8
"""Cells along each side of the picture; a cover is two of them high and wide."""
_BATCH = 16


def occlusion_map(
    pixels: Pixels, score: Callable[[Pixels], NDArray[np.float64]], fill: tuple[int, ...]
) -> NDArray[np.float64]:
    """Cover parts of a picture in turn, and give each place how much the score falls.

    Zeiler and Fergus (2014), arXiv 1311.2901, section 4.2.

    Parameters
    ----------
    pixels
        uint8, shape (height, width, 3).
    score
        From pictures, uint8 (n, height, width, 3), to a score each, shape (n,).
    fill
        Colour of the cover: the mean that the network subtracts.

    Returns
    -------
    map : float64, shape (rows, columns), at most 8 a side; each value is the mean over the covers
        that lie over its cell
    """
    edges = [np.unique(np.linspace(0, side, CELLS + 1).astype(int)) for side in pixels.shape[:2]]
    rows, columns = (len(edge) - 1 for edge in edges)
    # They run over the edge, so that each cell lies under four of them.
    corners = [(i, j) for i in range(-1, rows) for j in range(-1, columns)]
    whole = float(score(pixels[None])[0])
    total, covers = np.zeros((rows, columns)), np.zeros((rows, columns))
    for start in range(0, len(corners), _BATCH):
        some = corners[start : start + _BATCH]
        covered = np.repeat(pixels[None], len(some), axis=0)
        for picture, (i, j) in zip(covered, some, strict=True):
            top, left = edges[0][max(i, 0)], edges[1][max(j, 0)]
            picture[top : edges[0][min(i + 2, rows)], left : edges[1][min(j + 2, columns)]] = fill
        for (i, j), value in zip(some, score(covered), strict=True):
            cells = np.s_[max(i, 0) : i + 2, max(j, 0) : j + 2]
            total[cells] += whole - value
            covers[cells] += 1
    return total / covers
