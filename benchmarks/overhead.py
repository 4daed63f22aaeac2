"""The price of the interpreter for each image: a whole loop around a network that does nothing.

    python -m benchmarks.overhead --images 2000

Small JPEGs are read from files, hashed, decoded, resized and put into batches; the runner gives
zeros at once. What is left is what Python spends on an image while no other thread of the process
can, and so the most images that one process can feed to a card. CPU time is counted, not the
clock's, since other work may share the machine; the pictures are so small that decoding and
resizing themselves take little of it, and their part is measured alone and shown.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from featx.cache.ids import KEY_DTYPE
from featx.extraction.threads import Job, Outcome, ThreadLoop
from featx.images import draw
from featx.images.policy import DEFAULT_POLICY
from featx.preprocess import Preprocess
from featx.runtime import enter_worker_thread
from featx.sources.load import load_manifest

N_FEATURES = 2048


class EmptyRunner:
    """Takes batches as a runner does and answers at once."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._row = np.zeros((batch_size, N_FEATURES), np.float32)

    most_batches = None

    def allocate(self, shape: tuple[int, ...]) -> Any:
        return np.zeros(shape, np.uint8)

    def n_to_check(self, n_waiting: int) -> int:
        return 0

    def prepare(self, sample: Any, n_waiting: int) -> None:
        """Nothing has to be built."""

    def __call__(self, images: Any) -> list[Any]:
        return [self._row[: len(images)]]


def write_pictures(folder: Path, n: int, size: tuple[int, int]) -> list[str]:
    """Write JPEGs that differ from one another."""
    rng, paths = np.random.default_rng(0), []
    for k in range(n):
        pixels = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        paths.append(str(folder / f"{k:06d}.jpg"))
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def cpu_time(work: Callable[[], object]) -> float:
    """Seconds of CPU that all threads of the process spend on `work`."""
    start = time.process_time()
    work()
    return time.process_time() - start


def loop(paths: list[str], preprocess: Preprocess, batch: int, threads: int) -> None:
    """Run featx's own loop over files, as `extract` does, without a network and without a cache."""
    manifest = load_manifest(paths)
    job = Job(
        manifest=manifest,
        preprocess=preprocess,
        decode=DEFAULT_POLICY,
        runner=EmptyRunner(batch),  # type: ignore[arg-type]
        known=lambda content: False,
        store=lambda rows: None,
        merge=lambda taps, n_views: list(taps),
        check=lambda count, what: None,
        n_threads=threads,
    )
    outcome = Outcome(np.zeros(len(manifest), KEY_DTYPE))
    found = ThreadLoop(job, np.arange(len(manifest)), outcome).run(lambda _: None)
    if found.embedded != len(paths):
        raise RuntimeError(f"{found.embedded} of {len(paths)} images went through the loop")


def pixels_alone(paths: list[str], preprocess: Preprocess) -> None:
    """Decode and draw the same files, one after the other, outside any loop."""
    out = np.zeros(preprocess.out_shape(), np.uint8)
    for path in paths:
        draw(Path(path).read_bytes(), preprocess, out)


def main() -> None:
    """Print microseconds of CPU an image, as JSON: of the round that other work disturbed least."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4])
    asked = parser.parse_args()
    preprocess = Preprocess(input_size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1))
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_pictures(Path(folder), asked.images, (48, 40))
        enter_worker_thread()
        loop(paths[:64], preprocess, asked.batch, 1)
        cases = {f"loop, threads {n}": n for n in asked.threads}
        rates: dict[str, list[float]] = {}
        for _ in range(asked.rounds):
            for name, n in cases.items():
                spent = cpu_time(lambda n=n: loop(paths, preprocess, asked.batch, n))  # type: ignore[misc]
                rates.setdefault(name, []).append(spent)
            alone = cpu_time(lambda: pixels_alone(paths, preprocess))
            rates.setdefault("reading, decoding and drawing alone", []).append(alone)
        found = {k: round(min(v) / len(paths) * 1e6, 1) for k, v in rates.items()}
    print(json.dumps({"images": asked.images, "microseconds_of_cpu_an_image": found}, indent=1))


if __name__ == "__main__":
    main()
