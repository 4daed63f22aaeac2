"""What the processor is and how much of it this process may use."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from pathlib import Path

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
    """Whether the processor multiplies bfloat16 itself rather than by way of float32."""
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
