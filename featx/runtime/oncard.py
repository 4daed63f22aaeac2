"""The forward on a card: the fast path where it agrees with the plain one, else the plain one."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from torch import nn

from featx.errors import DeviceError, brief
from featx.runtime.card import Card
from featx.runtime.checking import Forward, worst_row
from featx.runtime.cuda import CudaForward, Launcher
from featx.runtime.fast import Floats, Pixels
from featx.runtime.memory import is_out_of_memory
from featx.runtime.overflow import finite_rows
from featx.runtime.plain import PlainForward
from featx.runtime.plan import Precision

log = logging.getLogger("featx")

# How far two ways to run one network in one precision may be apart: a row's relative error. They
# differ in the order of sums alone, which a batch of another size changes as well.
NEAR = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}


class OnCard:
    """Makes forwards for one card, all of them launched by the same thread.

    Parameters
    ----------
    card
        The card, or what a test puts in its place.
    name
        The device as the plan names it.
    """

    def __init__(self, card: Card, name: str) -> None:
        self._card, self._name = card, name
        self._launcher = Launcher()

    def forward(
        self, module: Any, precision: Precision, sample: Pixels, batch_shape: tuple[int, ...]
    ) -> Forward:
        """Make the forward of a network on the card.

        Where the fast path raises or disagrees on the first batch, one line says so and the plain
        one is taken.

        Parameters
        ----------
        module
            Reader on the card, in `precision`.
        sample
            uint8, shape (n, height, width, 3): up to a batch of it is compared.
        batch_shape
            (batch, height, width, 3).

        Raises
        ------
        RuntimeError
            If the batch does not fit into the memory.
        """
        exact, first = precision == "fp32", sample[: batch_shape[0]]
        plain = self.plain(module, precision)
        expected = plain(first)
        try:
            fast = CudaForward(module, batch_shape, exact, self._card, self._launcher)
            difference = _difference(expected, fast(first))
        except DeviceError:
            raise
        except Exception as error:  # whatever it is, the plain path does without what raised it
            if is_out_of_memory(error):
                raise
            log.warning(
                "the fast path on %s failed (%s); going on with the plain one, which is slower",
                self._name,
                brief(error),
            )
            return plain
        if difference <= NEAR[precision]:
            return fast
        log.warning(
            "the fast path on %s differs from the plain one (relative error %.1e, at most %.0e "
            "expected); going on with the plain one, which is slower",
            self._name,
            difference,
            NEAR[precision],
        )
        return plain

    def plain(self, module: nn.Module, precision: Precision) -> PlainForward:
        """Make the plain forward of a network on the card."""
        return PlainForward(module, self._card.device, precision == "fp32")

    def close(self) -> None:
        """End the thread that launches, and hand the memory back."""
        self._launcher.close()
        self._card.release()


def _difference(expected: list[Floats], found: list[Floats]) -> float:
    """Largest relative error of a row; infinite where one side alone is not finite."""
    here, there = finite_rows(expected), finite_rows(found)
    if not np.array_equal(here, there):
        return float("inf")
    return worst_row([tap[here] for tap in expected], [tap[here] for tap in found])
