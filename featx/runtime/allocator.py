"""Keep the C library from handing activations back to the kernel after every batch.

glibc maps blocks above a threshold (32 MiB at most, by its own rule) anew each time, and the kernel
clears every page of them again. EfficientNet-Lite0 in float32 took 20,000 page faults a batch of
eight so, and a third of its time.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator
from typing import Any

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of <malloc.h>
_KEPT = 1 << 30  # bytes: blocks up to here come from the heap, and the heap keeps as much
_BEFORE = {_MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}  # where glibc's rule ends up

_lock = threading.Lock()
_holders = 0


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Reuse large blocks inside; what is unused goes back to the kernel once all have left.

    Does nothing where the C library is not glibc.
    """
    _hold(+1)
    try:
        yield
    finally:
        _hold(-1)


def _hold(change: int) -> None:
    global _holders
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return
    with _lock:
        before, _holders = _holders, _holders + change
        if not before:
            for option in _BEFORE:
                mallopt(option, _KEPT)
        elif not _holders:
            for option, value in _BEFORE.items():
                mallopt(option, value)
            if (trim := _glibc("malloc_trim")) is not None:
                trim(0)


def _glibc(name: str) -> Callable[..., Any] | None:
    try:
        library = ctypes.CDLL("libc.so.6")
        return getattr(library, name, None)
    except OSError:
        return None
