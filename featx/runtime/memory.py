"""How much memory a batch may take, and whether an error says that there was too little."""

from __future__ import annotations

import torch

from featx.errors import DeviceError

_SAID = (
    "out of memory",  # CUDA, MPS (a plain RuntimeError), page-locked memory, graph capture
    "can't allocate memory",  # torch on a CPU
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
)
_KEPT_FREE = 0.9  # of a card: its workspaces, and what a neighbour takes meanwhile


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was too small, of a device or of this machine.

    Examples
    --------
    >>> is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 9.07 GB)"))
    True
    >>> is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    False
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SAID)


def share_of_memory(free: int, total: int, sharers: int) -> int:
    """Bytes that one of several workers of a device may plan with.

    Parameters
    ----------
    free, total
        Bytes of the device.
    sharers
        Workers that share it. Those that started earlier have their share already, so that what
        is free is not cut again; but no worker takes more than its share of the whole.

    Examples
    --------
    >>> share_of_memory(80, 80, 2), share_of_memory(30, 80, 2), share_of_memory(80, 80, 1)
    (36, 27, 72)
    """
    return int(min(free, total / sharers) * _KEPT_FREE)


def halved(size: int, device: str, reason: str) -> int:
    """Take half of a batch that was too large for the memory.

    Raises
    ------
    DeviceError
        If it was a single picture.
    """
    if size == 1:
        raise DeviceError(
            f"not even one picture fits into the memory of {device}; use a smaller network "
            f"or input size, or another device ({reason})"
        )
    return size // 2
