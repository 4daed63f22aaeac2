"""How many pictures one forward takes: by their size, by the memory, and less when it is full."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import numpy as np
import torch

from featx.errors import DeviceError, brief
from featx.runtime.checking import Forward
from featx.runtime.fast import Floats, Pixels
from featx.runtime.machine import device_memory
from featx.runtime.plan import RuntimePlan

log = logging.getLogger("featx")

CLOSED = "this runner is closed; make another one for further images"
_BYTES_PER_PIXEL = 64 * 4 * 3  # three float32 activations of 64 channels at full resolution


def bounded_batch(plan: RuntimePlan, image_shape: tuple[int, int, int]) -> int:
    """Choose a batch for the pictures' size, and keep all concurrent ones within the memory."""
    pixels = image_shape[0] * image_shape[1]
    share = device_memory(plan.device) // (4 if plan.probe else 2)
    fitting = max(1, share // (pixels * _BYTES_PER_PIXEL * plan.streams))
    if plan.probe:
        wanted = plan.batch_size * 224 * 224 // pixels
        return max(1, min(max(32, plan.batch_size), fitting, wanted))
    if fitting < plan.batch_size:
        log.warning("batches of %d do not fit into the memory; taking %d", plan.batch_size, fitting)
    return min(plan.batch_size, fitting)


def halved(size: int, plan: RuntimePlan, reason: str) -> int:
    """Take half of a batch that was too large for the memory.

    Raises
    ------
    DeviceError
        If it was a single picture.
    """
    if size == 1:
        raise DeviceError(
            f"not even one picture fits into the memory of {plan.device}; use a smaller network "
            f"or input size, or another device ({reason})"
        )
    return size // 2


def in_batches(forward: Forward, size: int) -> Forward:
    """Make `forward` take any number of pictures, by batches of at most `size`."""
    return lambda images: joined(
        [forward(images[i : i + size]) for i in range(0, len(images), size)]
    )


def joined(pieces: list[list[Floats]]) -> list[Floats]:
    """Put the rows of several batches one below the other, tap by tap."""
    if len(pieces) == 1:
        return pieces[0]
    return [np.concatenate(tap) for tap in zip(*pieces, strict=True)]


class Pieces:
    """Runs a forward in batches, which shrink where the card turns out too small.

    Any number of threads may call it.

    Parameters
    ----------
    plan
        For the device.
    size
        Pictures of one batch.

    Attributes
    ----------
    size : int
        Of a batch, now.
    forward : callable
        What runs a batch; None as long as there is none.
    on_smaller : callable or None
        Builds what takes the place of `forward` on batches of another size, if that one cannot.
    replaced : bool
        Whether that happened to the last forward that was set.
    """

    def __init__(self, plan: RuntimePlan, size: int) -> None:
        self.plan, self.size = plan, size
        self.forward: Forward | None = None
        self.on_smaller: Callable[[], Forward] | None = None
        self.replaced = False
        self._lock = threading.Lock()

    def __call__(self, images: Pixels) -> list[Floats]:
        """Embed uint8 (n, height, width, 3).

        Raises
        ------
        DeviceError
            If there is no forward, or not even one picture fits.
        """
        done: list[list[Floats]] = []
        start = 0
        while start < len(images):
            with self._lock:  # the two change together
                forward, size = self.forward, self.size
            if forward is None:
                raise DeviceError(CLOSED)
            try:
                done.append(forward(images[start : start + size]))
                start += size
                continue
            except torch.OutOfMemoryError as error:
                reason = brief(error)
            self._halve(size, reason)
        return joined(done)

    def _halve(self, size: int, reason: str) -> None:
        with self._lock:
            if self.size != size:
                return  # another thread has done it
            self.size = halved(size, self.plan, reason)
            log.warning("out of memory on %s; batches of %d", self.plan.device, self.size)
            if self.on_smaller is not None:
                torch.cuda.empty_cache()
                self.forward, self.replaced = self.on_smaller(), True

    def set(self, forward: Forward) -> None:
        """Run this from now on."""
        self.forward, self.replaced = forward, False

    def close(self) -> None:
        """Let go of the network."""
        self.forward = self.on_smaller = None
