"""The plain forward on a device: one stream, one picture batch at a time, operator by operator.

It is what the fast paths are compared with, and what runs where they fail. Read it as the
definition of a forward pass on a card.
"""

from __future__ import annotations

import contextlib
import threading

import torch
from torch import nn

from featx.runtime.exact import true_fp32
from featx.runtime.fast import Floats, Pixels


class PlainForward:
    """Runs a reader on a card or on Metal for any number of threads, one after the other.

    Parameters
    ----------
    module
        Reader on the device, which nobody else runs meanwhile.
    device
        Of the module.
    exact
        Whether products must stay float32 rather than be rounded to TF32.
    """

    def __init__(self, module: nn.Module, device: torch.device, exact: bool) -> None:
        self._module = module
        self._device = device
        self._exact = exact
        self._turn = threading.Lock()  # a reader hangs hooks into its network while it runs

    def __call__(self, images: Pixels) -> list[Floats]:
        """Embed uint8 (n, height, width, 3)."""
        if not images.flags.writeable:
            images = images.copy()  # torch warns of memory that it may not write to
        products = true_fp32() if self._exact else contextlib.nullcontext()
        with self._turn, products, torch.inference_mode():
            pixels = torch.from_numpy(images).to(self._device)
            taps = self._module(pixels)
            # To copy to the CPU waits until the card has computed it.
            return [tap.to(torch.float32).cpu().contiguous().numpy() for tap in taps]
