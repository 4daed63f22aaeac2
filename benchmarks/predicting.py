"""`featx predict` beside `featx extract`, on the same JPEGs and in turn.

python -m benchmarks.predicting --images 2000 --rounds 3

Both are run as commands on n and on 2 n pictures: the seconds of n more pictures are those of the
work alone, without starting, loading and the drift check, which a run pays once.
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

import numpy as np

from benchmarks.speed import write_photos


def seconds(*arguments: object) -> float:
    """Wall time of one command of featx, from its start to its end."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "featx", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - start


def make_model(folder: Path, pictures: list[str], flags: list[str]) -> Path:
    """Fit a head on a few of the pictures, with labels that mean nothing."""
    labels = np.where(np.arange(len(pictures)) % 2, "a", "b")
    table = folder / "train.csv"
    rows = [f"{path},{label}" for path, label in zip(pictures, labels, strict=True)]
    table.write_text("\n".join(["path,label", *rows]))
    seconds("extract", table, folder / "train.h5", *flags)
    seconds("fit", folder / "train.h5", "--head", "logreg", "--out", folder / "m.featx")
    return folder / "m.featx"


def once(folder: Path, model: Path, source: Path, flags: list[str]) -> dict[str, float]:
    """Run both commands, each from nothing."""
    cache, out = folder / "once.h5", folder / "once.csv"
    found = {
        "extract": seconds("extract", source, cache, *flags),
        "predict": seconds("predict", model, source, "--out", out),
    }
    cache.unlink()
    out.unlink()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--precision", default="auto")
    chosen = parser.parse_args()
    n, flags = chosen.images, ["--backbone", chosen.backbone, "--precision", chosen.precision]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = write_photos(folder / "pictures", 2 * n, (500, 375))
        model = make_model(folder, pictures[:60], flags)
        sources = {}
        for size in (n, 2 * n):
            sources[size] = folder / f"{size}.csv"
            sources[size].write_text("\n".join(["path", *pictures[:size]]))
        once(folder, model, sources[n], flags)  # compiles what later runs find compiled
        rounds = [
            {size: once(folder, model, source, flags) for size, source in sources.items()}
            for _ in range(chosen.rounds)
        ]
    rates = {
        what: statistics.median(n / (one[2 * n][what] - one[n][what]) for one in rounds)
        for what in ("extract", "predict")
    }
    whole = {
        what: statistics.median(2 * n / one[2 * n][what] for one in rounds)
        for what in ("extract", "predict")
    }
    print(
        json.dumps(
            {
                "images_per_second": rates,
                "share": rates["predict"] / rates["extract"],
                "images_per_second_with_start": whole,
                "share_with_start": whole["predict"] / whole["extract"],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
