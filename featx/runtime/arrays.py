"""Arrays on a card, for libraries that compute where the arrays lie that they are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featx.runtime.devices import choose_device


@dataclass(frozen=True)
class ArrayDevice:
    """Puts arrays on a device and gets them back.

    Examples
    --------
    >>> here = ArrayDevice("cpu")
    >>> here.get(2 * here.put(np.arange(3)))
    array([0, 2, 4])
    """

    name: str

    def put(self, values: NDArray[Any]) -> torch.Tensor:
        """Copy an array to the device."""
        return torch.as_tensor(np.ascontiguousarray(values), device=self.name)

    def get(self, values: torch.Tensor) -> NDArray[Any]:
        """Copy an array from the device."""
        found: NDArray[Any] = values.cpu().numpy()
        return found


def array_device(asked: str) -> ArrayDevice | None:
    """Find a device by torch's name for it; None where it is the processor.

    Raises
    ------
    DeviceError
        If it is unknown, or not there.
    """
    chosen = choose_device(asked)
    return None if chosen == "cpu" else ArrayDevice(chosen)
