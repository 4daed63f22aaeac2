"""The check of a fast path against float32; pictures that overflow are computed again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featx.runtime.forward import Floats, Pixels

log = logging.getLogger("featx")

Forward = Callable[[Pixels], list[Floats]]
MIN_COSINE = 0.999


@dataclass(frozen=True)
class Check:
    """Pictures and what they should give: by float32, operator by operator, as a rule."""

    images: Pixels
    reference: list[Floats]
    name: str = "fp32"

    def cosine(self, forward: Forward) -> float:
        """Compare `forward` with the reference: the least cosine of any row of any tap."""
        return lowest_cosine(self.reference, forward(self.images))

    def passes(self, forward: Forward, what: str) -> bool:
        """True if `forward` agrees in every row of every tap; the log says where it does not."""
        cosine = self.cosine(forward)
        if cosine < MIN_COSINE:
            log.warning("%s; going on without", disagreement(what, self.name, cosine))
        return cosine >= MIN_COSINE


def disagreement(what: str, other: str, cosine: float) -> str:
    """Say in one line that two ways to the same features differ."""
    return (
        f"{what} features differ from {other} (cosine {cosine:.4f}, at least {MIN_COSINE} expected)"
    )


def lowest_cosine(reference: Sequence[Floats], found: Sequence[Floats]) -> float:
    """Compare every row of every tap and return the least similar pair.

    Parameters
    ----------
    reference, found
        One float32 array of shape (n, d_k) a tap.

    Returns
    -------
    cosine
        In [-1, 1]; -1 where a value is not finite, or the shapes differ. Two rows of zeros agree.

    Examples
    --------
    >>> row = [np.ones((1, 3), np.float32)]
    >>> round(lowest_cosine(row, row), 6)
    1.0
    """
    if [a.shape for a in reference] != [b.shape for b in found]:
        return -1.0
    return min((_rowwise(a, b) for a, b in zip(reference, found, strict=True)), default=1.0)


def worst_row(reference: Sequence[Floats], found: Sequence[Floats]) -> float:
    """Largest relative error of any row of any tap: the norm of the difference by that of the row.

    Parameters
    ----------
    reference, found
        One float32 array of shape (n, d_k) a tap.

    Returns
    -------
    error
        At least 0; infinite where a value is not finite, or the shapes differ.

    Examples
    --------
    >>> round(worst_row([np.array([[3.0, 4.0]])], [np.array([[3.0, 4.5]])]), 3)
    0.1
    """
    if [a.shape for a in reference] != [b.shape for b in found]:
        return float("inf")
    worst = 0.0
    for a, b in zip(reference, found, strict=True):
        if not np.isfinite(b).all():
            return float("inf")
        apart = np.linalg.norm(a.astype(np.float64) - b, axis=1)
        size = np.linalg.norm(a.astype(np.float64), axis=1)
        errors = np.where(apart > 0, apart / np.where(size > 0, size, np.finfo(float).tiny), 0.0)
        worst = max(worst, float(errors.max(initial=0.0)))
    return worst


def _rowwise(a: Floats, b: Floats) -> float:
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    if not np.isfinite(b64).all():
        return -1.0
    norms = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    same = (a64 == b64).all(axis=1)
    dots = (a64 * b64).sum(axis=1)
    cosines = np.where(same, 1.0, dots / np.where(norms > 0, norms, 1.0))
    return float(cosines.min(initial=1.0))


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
