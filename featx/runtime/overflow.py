"""Pictures whose activations do not fit into a low precision, computed again in float32."""

from __future__ import annotations

import logging
import threading

import numpy as np
from numpy.typing import NDArray

from featx.runtime.checking import Forward
from featx.runtime.fast import Floats, Pixels

log = logging.getLogger("featx")


class Rescuing:
    """Runs a forward in low precision, and in float32 the pictures for which it is not finite.

    Float16 ends at 65,504, which a few networks exceed for a few pictures; their vectors then hold
    infinities or NaN. What float32 gives for them may still not be finite.

    Parameters
    ----------
    forward
        In low precision.
    exact
        In float32, for any number of pictures.

    Attributes
    ----------
    seen, rescued : int
        Pictures so far, and those computed again.
    """

    def __init__(self, forward: Forward, exact: Forward) -> None:
        self.forward, self.exact = forward, exact
        self.seen = self.rescued = 0
        self._lock = threading.Lock()

    def __call__(self, images: Pixels) -> list[Floats]:
        """Embed uint8 (n, height, width, 3)."""
        taps = self.forward(images)
        lost = ~finite_rows(taps)
        n_lost = int(lost.sum())
        with self._lock:
            first = not self.rescued
            self.seen, self.rescued = self.seen + len(images), self.rescued + n_lost
        if not n_lost:
            return taps
        if first:
            log.info("pictures that overflow in low precision are computed again in fp32")
        for tap, found in zip(taps, self.exact(images[lost]), strict=True):
            tap[lost] = found
        return taps

    @property
    def share(self) -> float:
        """Share of the pictures that were computed again."""
        return self.rescued / self.seen if self.seen else 0.0


def finite_rows(taps: list[Floats]) -> NDArray[np.bool_]:
    """Tell which rows are finite in every tap, bool of shape (n,)."""
    found: NDArray[np.bool_] = np.logical_and.reduce([np.isfinite(t).all(axis=1) for t in taps])
    return found
