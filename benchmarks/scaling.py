"""Time and memory of a run, and of a re-run with nothing to do, from 1,000 to 100,000 images.

python -m benchmarks.scaling --sizes 1000 10000 100000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.torture import NETWORK

_HEADER = 54  # bytes of a BMP file before its pixels


def write_pictures(folder: Path, n: int) -> None:
    """Write n small BMP files, each of its own content, in folders of a thousand."""
    from PIL import Image

    template = folder / "template.bmp"
    folder.mkdir()
    Image.new("RGB", (32, 32)).save(template)
    header = template.read_bytes()[:_HEADER]
    template.unlink()
    rng = np.random.default_rng(0)
    for first in range(0, n, 1000):
        inner = folder / f"{first // 1000:03d}"
        inner.mkdir()
        pixels = rng.integers(0, 256, (1000, 32 * 32 * 3), dtype=np.uint8)
        for k in range(min(1000, n - first)):
            (inner / f"{k:03d}.bmp").write_bytes(header + pixels[k].tobytes())
    old = time.time() - 3600
    for path in folder.rglob("*.bmp"):
        os.utime(path, (old, old))


def run(source: Path, cache: Path, network: Path) -> dict[str, Any]:
    """Run `featx extract` and take its own figures, its wall time and its peak memory."""
    command = [sys.executable, "-m", "featx", "extract", str(source), str(cache), "--json"]
    command += ["--backbone", f"file:{network}:build", "--weights", "random", "--layer", "1"]
    command += ["--input-size", "32", "--precision", "fp32", "--compile", "off"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"featx failed with status {status}")
    found = json.loads(output.splitlines()[-1])
    return {
        "wall_seconds": time.perf_counter() - start,
        "peak_mib": usage.ru_maxrss / 1024,
        "embedded": found["embedded"],
        "reused": found["reused"],
        "images_per_second": found["images_per_second"],
    }


def main() -> None:
    """Print one JSON object a size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    asked = parser.parse_args()
    for n in asked.sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            network = folder / "network.py"
            network.write_text(NETWORK)
            write_pictures(folder / "pictures", n)
            first = run(folder / "pictures", folder / "c.h5", network)
            again = run(folder / "pictures", folder / "c.h5", network)
            print(json.dumps({"images": n, "first": first, "again": again}), flush=True)


if __name__ == "__main__":
    main()
