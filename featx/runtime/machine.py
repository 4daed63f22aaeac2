"""The processor and the memory of this machine, and how much of both this process may use."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from featx.errors import DeviceError

_CGROUP = Path("/sys/fs/cgroup")


def cpu_cores() -> int:
    """Count the cores that this process may keep busy, at least 1.

    The smaller of the affinity mask and the quota of the control group, since a container
    often shows all cores of its host and lends only a few.

    Examples
    --------
    >>> cpu_cores() >= 1
    True
    """
    if hasattr(os, "sched_getaffinity"):
        visible = len(os.sched_getaffinity(0))
    else:  # macOS and Windows know no affinity mask
        visible = os.cpu_count() or 1
    quota = _cgroup_quota(_CGROUP)
    return visible if quota is None else max(1, min(visible, round(quota)))


def _cgroup_quota(root: Path) -> float | None:
    """Cores that the control group under `root` lends; None where it sets no limit."""
    try:
        quota, period = (root / "cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None  # "max" and -1 both say: no limit
    return int(quota) / int(period)


def memory_bytes() -> int:
    """Bytes of memory that this process may hope for: the machine's, or its control group's."""
    limits = [_physical_memory()]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (_CGROUP / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            limits.append(int(text))
    return min(limits)


def device_memory(device: str) -> int:
    """Bytes of memory of a device; of this machine where it has none of its own."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(torch.device(device)).total_memory)
    return memory_bytes()


def device_name(device: str) -> str:
    """Name a device as its maker does."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(torch.device(device))
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 * 1024**3  # a modest guess where the system does not say


@functools.cache
def native_bf16() -> bool:
    """True if the processor multiplies bfloat16 itself rather than by way of float32."""
    import torch

    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return True
    if platform.machine().lower() in {"aarch64", "arm64"}:
        return _arm_bf16()
    return False


def _arm_bf16() -> bool:
    if platform.system() == "Darwin":
        asked = ["sysctl", "-n", "hw.optional.arm.FEAT_BF16"]
        try:
            found = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            return False
        return found.stdout.strip() == "1"
    return "bf16" in _cpuinfo("Features").split()


def processor() -> str:
    """Name the processor and the vector instructions that torch uses on it.

    Part of the key of compiled packages: code made for one processor may not run on another.
    """
    import torch

    flags = _cpuinfo("flags") or _cpuinfo("Features")
    return "|".join((device_name("cpu"), torch.backends.cpu.get_cpu_capability(), flags))


@functools.cache
def _cpuinfo(field: str) -> str:
    """First value of `field` in /proc/cpuinfo, empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


_SAID = (
    "out of memory",  # CUDA, MPS (a plain RuntimeError), page-locked memory, graph capture
    "can't allocate memory",  # torch on a CPU
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
)
_KEPT_FREE = 0.9  # of a card: its workspaces, and what a neighbour takes meanwhile


def is_out_of_memory(error: BaseException) -> bool:
    """True if an error says that memory was too small, of a device or of this machine.

    Examples
    --------
    >>> is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 9.07 GB)"))
    True
    >>> is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    False
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SAID)


def share_of_memory(free: int, total: int, sharers: int) -> int:
    """Bytes that one of several workers of a device may plan with.

    Parameters
    ----------
    free, total
        Bytes of the device.
    sharers
        Workers that share it. Those that started earlier have their share already, so that what
        is free is not cut again; but no worker takes more than its share of the whole.

    Examples
    --------
    >>> share_of_memory(80, 80, 2), share_of_memory(30, 80, 2), share_of_memory(80, 80, 1)
    (36, 27, 72)
    """
    return int(min(free, total / sharers) * _KEPT_FREE)


def halved(size: int, device: str, reason: str) -> int:
    """Take half of a batch that was too large for the memory.

    Raises
    ------
    DeviceError
        If it was a single picture.
    """
    if size == 1:
        raise DeviceError(
            f"not even one picture fits into the memory of {device}; use a smaller network "
            f"or input size, or another device ({reason})"
        )
    return size // 2


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
