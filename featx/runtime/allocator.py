"""Keep the C library from handing activations back to the kernel after every batch.

glibc maps blocks above a threshold (32 MiB at most, by its own rule) anew each time, and the kernel
clears every page of them again. EfficientNet-Lite0 in float32 took 20,000 page faults a batch of
eight so, and a quarter of its time.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator
from typing import Any

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8  # of <malloc.h>
# Blocks up to a GiB come from the heap, which keeps as much; one heap for all threads, since that
# of a thread of its own ends at 64 MiB.
_KEEPING = {
    _MMAP_THRESHOLD: 1 << 30,
    _TRIM_THRESHOLD: 1 << 30,
    _TOP_PAD: 64 << 20,
    _ARENA_MAX: 1,
}
# Where glibc's own rules end up.
_BEFORE = {_MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20, _TOP_PAD: 0, _ARENA_MAX: 0}

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
            for option, value in _KEEPING.items():
                mallopt(option, value)
        elif not _holders:
            for option, value in _BEFORE.items():
                mallopt(option, value)
            give_back()


def give_back() -> None:
    """Hand what was freed back to the kernel; glibc keeps the gaps, and 64 MiB at the end."""
    if (trim := _glibc("malloc_trim")) is not None:
        trim(0)


def _glibc(name: str) -> Callable[..., Any] | None:
    try:
        library = ctypes.CDLL("libc.so.6")
        return getattr(library, name, None)
    except OSError:
        return None
