"""How a layer's channels vary together over a picture, as one vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_STEPS = 10
"""Newton-Schulz steps: directions with at least 1e-4 of the variance come out to 1 %."""


def pool_covariance(value: Tensor, channel: int) -> Tensor:
    """Pool maps to the square root of the covariance of their channels over space.

    The covariance is divided by its trace, so that contrast does not count, and its matrix square
    root brings the few strong directions and the many weak ones closer together (Li et al. 2018,
    https://arxiv.org/abs/1712.01034). The root is found with products of matrices alone, which
    every device and runtime has.

    Parameters
    ----------
    value
        Any float type; shape (n, ..., d, ...) with all axes but two in space.
    channel
        The axis of the channels.

    Returns
    -------
    vector : float32, shape (n, d * (d + 1) / 2)
        The upper triangle, row by row; off the diagonal times the root of two, so that the dot
        product of two vectors is that of the whole matrices. Zeros where nothing varies.

    Examples
    --------
    >>> pool_covariance(torch.tensor([[[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]]]), 1)
    tensor([[0.7071, 0.0000, 0.7071]])
    """
    rows = value.float().movedim(channel, 1).flatten(2)
    rows = rows - rows.mean(2, keepdim=True)
    spread = rows.square().sum((1, 2)).clamp(torch.finfo(torch.float32).tiny)
    rows = rows * spread.rsqrt()[:, None, None]
    root = _root(rows @ rows.transpose(1, 2))
    row, column = torch.triu_indices(*root.shape[1:], device=root.device)
    return root[:, row, column] * torch.where(row == column, 1.0, math.sqrt(2))


def _root(A: Tensor) -> Tensor:
    """Square roots of positive semidefinite matrices with a trace of one (or of zero)."""
    three = 3 * torch.eye(A.shape[1], dtype=A.dtype, device=A.device)
    root, inverse = A, three / 3
    for _ in range(_STEPS):
        step = (three - inverse @ root) / 2
        root, inverse = root @ step, step @ inverse
    return root
