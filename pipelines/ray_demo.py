"""`make ray-demo`: a local Ray cluster of two workers that are killed on the way, and one process.

Prints how the two caches compare row by row; exit status 1 if a row is lost or differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from featx.cache import open_cache

WORKERS = 2


def command(source: str, cache: Path, backbone: str, *more: str) -> list[str]:
    """Return `featx extract` in fp32, so that the same batches give the same bits."""
    options = ["--backbone", backbone, "--precision", "fp32", "--compile", "off", "--json", *more]
    return [sys.executable, "-m", "featx", "extract", source, str(cache), *options]


def on_ray(asked: list[str], cache: Path, kills: int) -> tuple[dict[str, Any], int]:
    """Run `asked` and kill its workers `kills` times; what it printed, and how many died."""
    process = subprocess.Popen(asked, stdout=subprocess.PIPE, text=True)
    killed: set[int] = set()
    while process.poll() is None and len(killed) < kills:
        time.sleep(random.uniform(0.5, 3))
        there = [pid for pid in workers_of(cache) if pid not in killed]
        if there:
            victim = random.choice(there)
            killed.add(victim)
            os.kill(victim, signal.SIGKILL)
            print(f"killed worker {victim} ({len(killed)} of {kills})", file=sys.stderr)
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"featx failed with status {process.returncode}")
    return json.loads(output.splitlines()[-1]), len(killed)


def workers_of(cache: Path) -> list[int]:
    """Process ids of the workers that have signed in beside the cache and are alive."""
    signed = cache.with_name(f"{cache.name}.parts").glob("workers-*/*")
    found = [int(path.name.rpartition("-")[2]) for path in signed]
    return [pid for pid in found if Path(f"/proc/{pid}").exists()]


def compare(one: Path, other: Path) -> tuple[str, bool]:
    """Say how two caches compare, and whether every row is there and the same bit for bit."""
    with open_cache(one) as a, open_cache(other) as b:
        same_ids = a.ids == b.ids
        if not same_ids:
            return f"ids differ: {len(a.ids)} against {len(b.ids)} rows", False
        x, y = np.asarray(a.X), np.asarray(b.X)
        n_same = int((x == y).all(axis=1).sum())
        far = float(np.abs(x - y).max())
        text = f"{n_same} of {len(x)} rows equal bit for bit, largest difference {far:.2g}"
        return text, n_same == len(x) and b.verify().ok


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--kills", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="featx-ray-demo-") as name:
        one, two = Path(name) / "one.h5", Path(name) / "ray.h5"
        more = ("--engine", "ray", "--address", "local", "--workers", str(WORKERS))
        on = command(asked.data, two, asked.backbone, *more)
        found, n_killed = on_ray(on, two, asked.kills)
        alone = subprocess.run(
            command(asked.data, one, asked.backbone), stdout=subprocess.PIPE, text=True, check=True
        )
        text, same = compare(one, two)
    single = json.loads(alone.stdout.splitlines()[-1])
    print(f"one process: {single['embedded']} images, fingerprint {single['fingerprint'][:12]}")
    print(
        f"{WORKERS} Ray workers, {n_killed} killed: {found['embedded']} images, "
        f"fingerprint {found['fingerprint'][:12]}"
    )
    print(text)
    if not same or n_killed < asked.kills:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
