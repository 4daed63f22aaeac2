"""Weights for a lower precision: BatchNorm folded in first, and rounded with the sum kept."""

from __future__ import annotations

import torch
from torch import Tensor


def folded(
    weight: Tensor,
    bias: Tensor | None,
    norm: tuple[Tensor | None, Tensor | None, Tensor, Tensor, float],
) -> tuple[Tensor, Tensor]:
    """Fold a BatchNorm into the convolution before it, in float64.

    Parameters
    ----------
    weight, bias
        Of the convolution: shapes (out, in / groups, height, width) and (out,).
    norm
        Scale, shift, running mean, running variance, each of shape (out,), and epsilon.

    Returns
    -------
    weight, bias : in the type and memory layout of `weight`
    """
    gamma, beta, mean, variance, epsilon = norm
    scale = (variance.double() + epsilon).rsqrt()
    scale = scale if gamma is None else scale * gamma.double()
    shift = -mean.double() if bias is None else bias.double() - mean.double()
    shift = shift * scale if beta is None else shift * scale + beta.double()
    scaled = weight.double() * scale.view(-1, *[1] * (weight.ndim - 1))
    return scaled.to(weight.dtype), shift.to(weight.dtype)


def round_keeping_sums(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Round every kernel up and down so that its sum stays what it was.

    What enters a depthwise convolution is mostly positive and smooth, so the error of its output
    is the input's mean times the error of the kernel's sum. Rounding to nearest leaves that sum
    to chance; here the weights whose other neighbour brings the sum closer are moved to it, one
    at a time.

    Parameters
    ----------
    weight
        Float32, shape (kernels, ...).
    dtype
        The lower precision.

    Returns
    -------
    rounded : `weight` in `dtype`, each value one of its two neighbours there

    Examples
    --------
    >>> kernel = torch.full((1, 1, 3, 3), 1.003)
    >>> near = kernel.to(torch.bfloat16).double().sum() - kernel.double().sum()
    >>> kept = round_keeping_sums(kernel, torch.bfloat16).double().sum() - kernel.double().sum()
    >>> round(abs(float(near)), 3), round(abs(float(kept)), 3)
    (0.027, 0.004)
    """
    exact = weight.flatten(1).double()
    low = exact.to(dtype)
    step = torch.where(low.double() > exact, -torch.inf, torch.inf).to(dtype)
    values, other = low.double(), torch.nextafter(low, step).double()
    rows = torch.arange(len(exact), device=exact.device)
    for _ in range(exact.shape[1]):
        error = (values - exact).sum(1)
        moved = (error[:, None] + other - values).abs()
        best = moved.argmin(1)
        better = moved[rows, best] < error.abs()
        if not better.any():
            break
        chosen, column = rows[better], best[better]
        values[chosen, column], other[chosen, column] = (
            other[chosen, column],
            values[chosen, column],
        )
    rounded = values.to(dtype).view(weight.shape)
    return rounded.contiguous(memory_format=_layout(weight))


def _layout(weight: Tensor) -> torch.memory_format:
    last = weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
