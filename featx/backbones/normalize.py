"""From uint8 pixels to what a network takes, whatever has been done to the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from featx.errors import BackboneError
from featx.preprocess import Preprocess


class Normalize(nn.Module):
    """Pixels as the network wants them: normalised in float32, then in its type and layout.

    Parameters
    ----------
    preprocess
        For its mean and std.
    net
        The network; its parameters' type and memory format are followed, whatever is done to it.
    in_chans
        3, or 1 for a network of grey pictures: the mean over red, green and blue.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocess: Preprocess, net: nn.Module, in_chans: int = 3) -> None:
        super().__init__()
        for name in ("mean", "std"):
            values = getattr(preprocess, name)
            if len(values) not in (1, in_chans):
                raise BackboneError(
                    f"{name} has {len(values)} values, but the network takes {in_chans} channels"
                )
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)
        self.in_chans = in_chans
        self._values = (preprocess.mean, preprocess.std)
        self._net = (net,)  # in a tuple, so that it is not registered a second time

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Normalize:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # `.to(torch.bfloat16)` is for the network; rounding the mean would move every pixel.
        for name, values in zip(("mean", "std"), self._values, strict=True):
            device = getattr(self, name).device
            setattr(self, name, torch.tensor(values, device=device).view(1, -1, 1, 1))
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Normalise uint8 (n, height, width, 3) to the network's type, (n, in_chans, h, w)."""
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)
        if self.in_chans == 1:
            pixels = pixels.mean(1, keepdim=True)
        dtype, layout = _wanted(self._net[0])
        pixels = (pixels / 255.0 - self.mean) / self.std
        return pixels.to(dtype).contiguous(memory_format=layout)


def _wanted(net: nn.Module) -> tuple[torch.dtype, torch.memory_format]:
    dtype, layout = torch.float32, torch.contiguous_format
    floats = [p for p in net.parameters() if p.is_floating_point()]
    # Not a vector's type: BatchNorm may stay float32 beside kernels of another type.
    weight = next((p for p in floats if p.ndim > 1), floats[0] if floats else None)
    if weight is not None:
        dtype = weight.dtype
    # A kernel of 1x1 is contiguous both ways and says nothing.
    telling = (p for p in floats if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] * p.shape[3] > 1)
    kernel = next(telling, None)
    if kernel is not None and kernel.is_contiguous(memory_format=torch.channels_last):
        layout = torch.channels_last
    return dtype, layout
