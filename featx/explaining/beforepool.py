"""The map whose mean is a vector: a layer's output before the network, or the tap, pools it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from featx.backbones.reader import TapReader

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
