"""Copies of a reader in another precision, and the check that they still say the same."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float32]
MIN_COSINE = 0.999


class Replicas:
    """One module for each thread that asks, all with the same weights.

    A reader hangs hooks into its network while it runs, so two threads cannot share one.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._own = threading.local()

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """Run the calling thread's own module."""
        if not hasattr(self._own, "module"):
            self._own.module = _sharing_weights(self._module)
        taps: Sequence[Tensor] = self._own.module(images)
        return taps


def converted(reader: nn.Module, device: str, dtype: torch.dtype, channels_last: bool) -> nn.Module:
    """Copy `reader` in evaluation mode, weights frozen, on another device or in another type.

    A weight that is right already is shared, so a large network is never held a third time.
    BatchNorm stays float32: its kernels take it beside low-precision input, and a rounded
    variance costs more accuracy than a rounded weight.
    """
    copied = _sharing_weights(reader).to(device, dtype)
    if channels_last:
        copied.to(memory_format=torch.channels_last)
    if dtype == torch.float32:
        return copied.eval()
    for original, module in zip(reader.modules(), copied.modules(), strict=True):
        if isinstance(original, nn.modules.batchnorm._BatchNorm):
            module.float().load_state_dict(original.state_dict())
    return copied.eval()


def _sharing_weights(module: nn.Module) -> nn.Module:
    """Copy the modules, not the memory of their tensors."""
    memo: dict[int, object] = {id(b): b.detach() for b in module.buffers()}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(module, memo)


@contextlib.contextmanager
def true_fp32() -> Iterator[None]:
    """Keep CUDA from rounding float32 products to TF32 inside the block."""
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


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


def _rowwise(a: Floats, b: Floats) -> float:
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    if not np.isfinite(b64).all():
        return -1.0
    norms = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    same = (a64 == b64).all(axis=1)
    dots = (a64 * b64).sum(axis=1)
    cosines = np.where(same, 1.0, dots / np.where(norms > 0, norms, 1.0))
    return float(cosines.min(initial=1.0))
