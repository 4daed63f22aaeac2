"""One process beside two: `--engine local --workers 2` and `--engine ray --workers 2`.

    python -m benchmarks.ray_workers --images 2400 --rounds 3

The same pictures and network, in turn, round by round; prints one JSON line. ``images_per_second``
counts from the first picture read to publication, ``wall_seconds`` the whole command.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.speed import write_photos

SYSTEMS = {
    "one process": (),
    "local x 2": ("--engine", "local", "--workers", "2"),
    "ray x 2": ("--engine", "ray", "--address", "local", "--workers", "2"),
}


def run(source: Path, network: list[str], engine: tuple[str, ...]) -> dict[str, float]:
    """Run `featx extract` once into a cache that is thrown away."""
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name) / "c.h5"
        command = [sys.executable, "-m", "featx", "extract", str(source), str(cache), "--json"]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, *network, *engine], stdout=subprocess.PIPE, text=True, check=True
        )
        wall = time.perf_counter() - start
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"images_per_second": found["images_per_second"], "wall_seconds": wall}


def main() -> None:
    """Print medians and their ratio to one process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--images", type=int, default=2400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="fp32")
    asked = parser.parse_args()
    network = ["--backbone", asked.backbone, "--precision", asked.precision]
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in SYSTEMS}
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "photos"
        write_photos(source, asked.images, (500, 375))
        warm = run(source, network, ())  # leaves the compiled network behind
        print(f"warm-up: {warm}", file=sys.stderr)
        for number in range(asked.rounds):
            for system, engine in SYSTEMS.items():
                rounds[system].append(run(source, network, engine))
                print(f"round {number + 1}, {system}: {rounds[system][-1]}", file=sys.stderr)
    rates = {
        system: statistics.median(r["images_per_second"] for r in found)
        for system, found in rounds.items()
    }
    ratios = {system: rate / rates["one process"] for system, rate in rates.items()}
    print(json.dumps({**vars(asked), "median": rates, "ratio": ratios, "rounds": rounds}))


if __name__ == "__main__":
    main()
