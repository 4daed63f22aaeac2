"""How many pictures one forward takes: by their size, by the memory, and less when it is full."""

from __future__ import annotations

import logging

import numpy as np

from featx.errors import DeviceError
from featx.runtime.checking import Forward
from featx.runtime.fast import Floats
from featx.runtime.machine import device_memory
from featx.runtime.plan import RuntimePlan

log = logging.getLogger("featx")

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
