"""What a card was and what it did while something was measured on it, as nvidia-smi says."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FIELDS = (
    "name", "driver_version", "compute_cap", "memory.total", "memory.used", "mig.mode.current",
    "compute_mode", "power.limit", "clocks.max.sm", "clocks.max.mem",
)  # fmt: skip
_MOVING = ("clocks.sm", "clocks.mem", "power.draw", "utilization.gpu", "temperature.gpu")
_SECONDS = 1.0


def describe(device: str) -> dict[str, Any] | None:
    """Name, driver, limits and clocks of a card; None for another device or without nvidia-smi."""
    if not device.startswith("cuda") or shutil.which("nvidia-smi") is None:
        return None
    values = _ask(FIELDS, device)
    return dict(zip(FIELDS, values, strict=True)) if values else None


def _ask(fields: tuple[str, ...], device: str) -> list[str]:
    index = device.partition(":")[2] or "0"
    command = ["nvidia-smi", f"--id={index}", f"--query-gpu={','.join(fields)}"]
    command.append("--format=csv,noheader,nounits")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    return [v.strip() for v in done.stdout.split(",")] if done.returncode == 0 else []


@contextmanager
def watched(device: str) -> Iterator[dict[str, float]]:
    """Look at a card once a second inside the block; medians are filled in at its end."""
    found: dict[str, float] = {}
    if describe(device) is None:
        yield found
        return
    seen: list[list[str]] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(_SECONDS):
            if values := _ask(_MOVING, device):
                seen.append(values)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()
        for name, column in zip(_MOVING, zip(*seen, strict=True), strict=False):
            numbers = [float(v) for v in column if v.replace(".", "", 1).isdigit()]
            if numbers:
                found[name] = statistics.median(numbers)
