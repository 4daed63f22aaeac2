"""True float32: products that no backend may round to TF32 or bfloat16."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

_lock = threading.Lock()
_holders = 0
_before: list[str] = []


def _switches() -> tuple[Any, ...]:
    """Every switch of torch's precision API that a forward pass can meet."""
    found = torch.backends
    return (
        found.cuda.matmul,
        found.cudnn.conv,  # type: ignore[attr-defined]
        found.cudnn.rnn,
        found.mkldnn.matmul,  # type: ignore[attr-defined]
        found.mkldnn.conv,  # type: ignore[attr-defined]
    )


@contextlib.contextmanager
def true_fp32() -> Iterator[None]:
    """Keep float32 products float32 inside the block, whatever the caller has set.

    The switches belong to the process: the first thread that enters turns them, the last that
    leaves turns them back. Only torch's newer API (``fp32_precision``) is read and written, which
    knows what was set by the older one (``allow_tf32``, ``set_float32_matmul_precision``); to read
    by the older one what was set by the newer is an error of torch's.
    """
    _hold(+1)
    try:
        yield
    finally:
        _hold(-1)


def _hold(change: int) -> None:
    global _holders, _before
    with _lock:
        before, _holders = _holders, _holders + change
        if not before:
            _before = [switch.fp32_precision for switch in _switches()]
            for switch in _switches():
                switch.fp32_precision = "ieee"
        elif not _holders:
            for switch, value in zip(_switches(), _before, strict=True):
                switch.fp32_precision = value
