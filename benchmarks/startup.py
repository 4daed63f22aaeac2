"""How long commands take that do little, as ratios to `python -c "import timm"`.

    python -m benchmarks.startup --rounds 5 --out benchmarks/results/startup.json

Each round runs every command once, in turn, in a process of its own, and `import timm` first; the
median of the ratios within a round is given. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FEATX = [sys.executable, "-m", "featx"]
TARGETS = {"nothing to do": 0.5, "dry run": 0.5, "predict": 1.6, "serve": 2.5, "doctor": 1.5}


def write_pictures(folder: Path, n: int) -> None:
    """Write pictures of two classes, changed long ago."""
    rng = np.random.default_rng(0)
    for k in range(n):
        path = folder / ("dark", "light")[k % 2] / f"{k:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        low = 128 * (k % 2)
        Image.fromarray(rng.integers(low, low + 128, (300, 400, 3), np.uint8)).save(path)
        os.utime(path, (1e9, 1e9))


def timed(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def first_answer(model: Path) -> float:
    """Seconds until `featx serve` has answered a request."""
    start = time.perf_counter()
    command = [*FEATX, "serve", str(model), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            line = next(line for line in server.stdout if line.startswith("http"))
            host = line.split()[0].removeprefix("http://").strip("/")
            connection = http.client.HTTPConnection(host, timeout=60)
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
            return time.perf_counter() - start
        finally:
            server.terminate()


def commands(folder: Path, network: list[str]) -> dict[str, Callable[[], float]]:
    """Make what the commands need, and give what runs each."""
    photos, cache, model = folder / "photos", folder / "c.h5", folder / "m.featx"
    four = folder / "four"
    write_pictures(photos, 60)
    write_pictures(four, 4)
    extract = [*FEATX, "extract", str(photos), str(cache), *network]
    timed(extract)
    timed([*FEATX, "fit", str(cache), "--head", "svm", "--out", str(model)])
    predict = [*FEATX, "predict", str(model), str(four), "--out", str(folder / "p.csv")]
    return {
        "nothing to do": lambda: timed(extract),
        "dry run": lambda: timed([*extract, "--dry-run"]),
        "info": lambda: timed([*FEATX, "info", str(cache)]),
        "verify": lambda: timed([*FEATX, "verify", str(cache)]),
        "fit": lambda: timed([*FEATX, "fit", str(cache), "--head", "svm"]),
        "predict": lambda: timed(predict),
        "serve": lambda: first_answer(model),
        "doctor": lambda: timed([*FEATX, "doctor"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--weights", help="as featx extract takes them")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    network = ["--backbone", asked.backbone]
    network += ["--weights", asked.weights] if asked.weights else []
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        runs = commands(Path(folder), network)
        for _ in range(asked.rounds):
            unit = timed([sys.executable, "-c", "import timm"])
            rounds.append({"import timm": unit, **{name: run() for name, run in runs.items()}})
    found: dict[str, Any] = {"machine": platform.processor() or platform.machine()}
    found |= {"cores": os.cpu_count(), "rounds": asked.rounds, "network": network}
    found["import timm, s"] = statistics.median(row["import timm"] for row in rounds)
    found["ratios"] = {
        name: {
            "median": round(statistics.median(row[name] / row["import timm"] for row in rounds), 3),
            "target": TARGETS.get(name),
        }
        for name in runs
    }
    text = json.dumps(found, indent=2)
    print(text)
    if asked.out is not None:
        asked.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
