"""The forward pass on a CUDA card: copies on one stream while another computes."""

from __future__ import annotations

import logging
import queue
import threading
from typing import Any

import torch
from torch import Tensor, nn

from featx.runtime.compiling import exported, quiet
from featx.runtime.fast import Floats, Pixels, true_fp32

log = logging.getLogger("featx")

_SLOTS = 2  # one batch is copied while another is computed


class _Slot:
    """Memory for one batch on its way: pinned here, and there."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self.pinned = torch.zeros(shape, dtype=torch.uint8, pin_memory=True)
        self.there = torch.zeros(shape, dtype=torch.uint8, device=device)
        self.done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.outputs: list[Tensor] = []


class CudaForward:
    """Runs a reader on one card for any number of threads; a short batch is padded.

    Parameters
    ----------
    module
        Reader on the card.
    batch_shape
        (batch, height, width, 3).
    exact
        Whether products must stay float32 rather than be rounded to TF32.

    Raises
    ------
    torch.OutOfMemoryError
        If the batch does not fit.
    """

    def __init__(
        self, module: nn.Module, device: str, batch_shape: tuple[int, ...], exact: bool
    ) -> None:
        self.batch_shape = batch_shape
        self._module: Any = module
        self._exact = exact
        self._device = torch.device(device)
        with torch.cuda.device(self._device):
            self._copying = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._computing = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            slots = [_Slot(batch_shape, self._device) for _ in range(_SLOTS)]
            torch.cuda.synchronize()  # the slots were filled on another stream
        self._launch = threading.Lock()
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for slot in slots:
            self._free.put(slot)

    def __call__(self, images: Pixels) -> list[Floats]:
        """Embed uint8 (n, height, width, 3) with n up to the batch."""
        slot = self._free.get()
        try:
            slot.pinned.numpy()[: len(images)] = images
            with self._launch, torch.cuda.device(self._device), torch.inference_mode():
                self._start(slot)
            slot.done.synchronize()  # lets go of the interpreter
            return [tap.numpy()[: len(images)].copy() for tap in slot.outputs]
        except torch.OutOfMemoryError:
            self._computing.synchronize()  # what was started may still write into the slot
            raise
        finally:
            slot.outputs = []
            self._free.put(slot)

    def _start(self, slot: _Slot) -> None:
        with torch.cuda.stream(self._copying):
            slot.there.copy_(slot.pinned, non_blocking=True)
            arrived = self._copying.record_event()
        with torch.cuda.stream(self._computing):
            self._computing.wait_event(arrived)
            for tap in self._run(slot.there):
                vectors = tap.to(torch.float32).contiguous()
                here = torch.empty(vectors.shape, dtype=torch.float32, pin_memory=True)
                slot.outputs.append(here.copy_(vectors, non_blocking=True))
            slot.done.record(self._computing)

    def _run(self, images: Tensor) -> tuple[Tensor, ...]:
        if not self._exact:
            return tuple(self._module(images))
        with true_fp32():
            return tuple(self._module(images))


def compiled_for_cuda(module: nn.Module, device: str, batch_shape: tuple[int, ...]) -> Any:
    """Export `module` and compile it, without CUDA graphs: those belong to one thread.

    The compilation itself runs at the first call.
    """
    with quiet(), torch.no_grad():
        graph = exported(module, batch_shape, device).module()
    return torch.compile(graph, dynamic=False, mode="max-autotune-no-cudagraphs")
