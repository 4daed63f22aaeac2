"""How many pictures one forward takes: by their size, by the memory, and less when it is full."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import numpy as np
import torch

from featx.errors import DeviceError, brief
from featx.runtime.card import Card
from featx.runtime.checking import Forward
from featx.runtime.cuda import CLOSED
from featx.runtime.forward import Floats, Pixels
from featx.runtime.machine import halved, is_out_of_memory, memory_bytes
from featx.runtime.plan import RuntimePlan

log = logging.getLogger("featx")

_BYTES_PER_PIXEL = 64 * 4 * 3  # three float32 activations of 64 channels at full resolution


def bounded_batch(
    plan: RuntimePlan, image_shape: tuple[int, int, int], card: Card | None = None
) -> int:
    """Choose a batch for the pictures' size, and keep all concurrent ones within the memory."""
    pixels = image_shape[0] * image_shape[1]
    memory = memory_bytes() // plan.sharers if card is None else card.share(plan.sharers)
    share = memory // (4 if plan.probe else 2)
    fitting = max(1, share // (pixels * _BYTES_PER_PIXEL * plan.streams))
    if plan.probe:
        wanted = plan.batch_size * 224 * 224 // pixels
        return max(1, min(max(32, plan.batch_size), fitting, wanted))
    if fitting < plan.batch_size:
        log.warning("batches of %d do not fit into the memory; taking %d", plan.batch_size, fitting)
    return min(plan.batch_size, fitting)


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
    card
        Where the plan is for one.

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

    def __init__(self, plan: RuntimePlan, size: int, card: Card | None = None) -> None:
        self.plan, self.size, self._card = plan, size, card
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
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = brief(error)
            del forward  # the batches of the old size are freed with their last user
            self.halve(size, reason)
        return joined(done)

    def halve(self, size: int, reason: str) -> None:
        """Take smaller batches after one of `size` did not fit.

        Any number of threads may find that at the same time: the first of them halves.

        Raises
        ------
        DeviceError
            If it was a single picture.
        """
        with self._lock:
            if self.size != size:
                return  # another thread has done it
            while True:
                self.size = halved(self.size, self.plan.device, reason)
                log.warning("out of memory on %s; batches of %d", self.plan.device, self.size)
                if self.on_smaller is None:
                    self.release()
                    return
                self.forward = None  # before another is made: its memory is needed
                self.release()
                try:
                    self.forward, self.replaced = self.on_smaller(), True
                    return
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    reason = brief(error)

    def release(self) -> None:
        """Hand memory that torch keeps for later back to the device."""
        if self._card is not None:
            self._card.release()
        elif self.plan.kind == "mps":
            torch.mps.empty_cache()

    def set(self, forward: Forward) -> None:
        """Run this from now on."""
        self.forward, self.replaced = forward, False

    def close(self) -> None:
        """Let go of the network."""
        self.forward = self.on_smaller = None
