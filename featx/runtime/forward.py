"""The forward pass as PyTorch runs it: copies in another type or on another device, and batches."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_lock = threading.Lock()


def _set_cudnn(value: Any) -> None:
    torch.backends.cudnn.allow_tf32 = value


class _Domain:
    """Switches that are turned together while anybody holds them.

    Parameters
    ----------
    switches
        Each with an attribute ``fp32_precision``: the newer API.
    get, put, exact
        The older API for the same products, and its value for true float32.
    """

    def __init__(
        self,
        switches: tuple[Any, ...],
        get: Callable[[], Any],
        put: Callable[[Any], None],
        exact: object,
    ) -> None:
        self.switches, self._get, self._put, self._exact = switches, get, put, exact
        self._holders = 0
        self._older: Any = None
        self._newer: list[str] = []

    def hold(self, change: int) -> None:
        """Count a holder more or less; the first turns the switches, the last turns them back."""
        before, self._holders = self._holders, self._holders + change
        if not before:
            self._turn()
        elif not self._holders:
            self._turn_back()

    def _turn(self) -> None:
        self._newer = [switch.fp32_precision for switch in self.switches]
        self._older = None
        if all(value in ("ieee", "none") for value in self._newer):
            return  # products are true already: nothing that another thread could stumble over
        with contextlib.suppress(RuntimeError):  # the caller has used the newer API alone
            self._older = self._get()
            self._put(self._exact)
        for switch in self.switches:
            switch.fp32_precision = "ieee"

    def _turn_back(self) -> None:
        if self._older is not None:
            self._put(self._older)
        for switch, value in zip(self.switches, self._newer, strict=True):
            if switch.fp32_precision != value:
                switch.fp32_precision = value


_MATMUL = _Domain(
    (
        torch.backends.cuda.matmul,
        torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
        torch.backends.mkldnn.conv,  # type: ignore[attr-defined]
    ),
    torch.get_float32_matmul_precision,
    torch.set_float32_matmul_precision,
    "highest",
)
_CUDNN = _Domain(
    (torch.backends.cudnn.conv, torch.backends.cudnn.rnn),  # type: ignore[attr-defined]
    lambda: torch.backends.cudnn.allow_tf32,
    _set_cudnn,
    False,
)


@contextlib.contextmanager
def true_fp32(*, on_card: bool = True) -> Iterator[None]:
    """Keep float32 products float32 inside the block, whatever the caller has set.

    The switches belong to the process: the first thread that enters turns them, the last that
    leaves turns them back.

    Parameters
    ----------
    on_card
        Whether cuDNN's are turned as well, which round by default and which a CPU never asks.
    """
    domains = (_MATMUL, _CUDNN) if on_card else (_MATMUL,)
    with _lock:
        for domain in domains:
            domain.hold(+1)
    try:
        yield
    finally:
        with _lock:
            for domain in domains:
                domain.hold(-1)


Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


class EagerForward:
    """Runs a reader on the CPU operator by operator, in a copy for each thread that asks.

    A reader hangs hooks into its network while it runs, so two threads cannot share one; the
    copies share their weights.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._own = threading.local()

    def __call__(self, images: Pixels) -> list[Floats]:
        """Embed uint8 (n, height, width, 3)."""
        if not hasattr(self._own, "module"):
            self._own.module = _sharing_weights(self._module)
        if not images.flags.writeable:
            images = images.copy()  # torch warns of memory that it may not write to
        with torch.inference_mode():
            return [_as_array(tap) for tap in self._own.module(torch.from_numpy(images))]


class GraphForward:
    """Runs a graph of a fixed batch on the CPU, in any number of threads; short ones are padded."""

    def __init__(self, graph: nn.Module, batch: int) -> None:
        self._graph = graph
        self._batch = batch

    def __call__(self, images: Pixels) -> list[Floats]:
        """Embed uint8 (n, height, width, 3) with n up to the batch."""
        padded = np.zeros((self._batch, *images.shape[1:]), np.uint8)
        padded[: len(images)] = images
        with torch.inference_mode():
            return [_as_array(tap)[: len(images)] for tap in self._graph(torch.from_numpy(padded))]


def _as_array(tap: Tensor) -> Floats:
    array: Floats = tap.to(device="cpu", dtype=torch.float32).contiguous().numpy()
    return array


def converted(
    reader: nn.Module, device: torch.device, dtype: torch.dtype, channels_last: bool
) -> nn.Module:
    """Copy `reader` in evaluation mode, weights frozen, on another device or in another type.

    A weight that is right already is shared, so a large network is never held a third time.
    BatchNorm stays float32: its kernels take it beside low-precision input, and a rounded
    variance costs more accuracy than a rounded weight.
    """
    copied = _sharing_weights(reader).to(device, dtype)
    if channels_last:
        to_channels_last(copied)
    if dtype == torch.float32:
        return copied.eval()
    for original, module in zip(reader.modules(), copied.modules(), strict=True):
        if isinstance(original, nn.modules.batchnorm._BatchNorm):
            module.float().load_state_dict(original.state_dict())
    return copied.eval()


def to_channels_last(module: nn.Module) -> None:
    """Lay out the kernels of a module with their channels last; others stay as they are.

    ``Module.to(memory_format=...)`` fails for the kernels of a 3-D convolution, which a few
    networks of pictures hold (LambdaNet).
    """
    module._apply(  # type: ignore[no-untyped-call]
        lambda t: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t
    )


def _sharing_weights(module: nn.Module) -> nn.Module:
    """Copy the modules, not the memory of their tensors."""
    memo: dict[int, object] = {id(b): b.detach() for b in module.buffers()}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(module, memo)


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
