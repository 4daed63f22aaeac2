"""True float32: products that no backend may round to TF32 or bfloat16.

torch has two ways to say so, an older one (``allow_tf32``, ``set_float32_matmul_precision``) and a
newer (``fp32_precision``). To read by the older what was set by the newer alone is an error of
torch's, which torch's own compiler runs into; so both are kept in step where the caller's are.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

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
        exact: Any,
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
