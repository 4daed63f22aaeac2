"""Extraction at scale as a discrete simulation: workers, storage, failures, shards, publishing.

python -m benchmarks.scale_model                # the cases of docs/scale.md
python -m benchmarks.scale_model --publishing   # measure rows published in a second, here

Each worker asks a shared storage for its next chunk of images while it computes the one before;
storage serves requests one after another at its bandwidth, and no worker faster than its network.
Workers differ in speed, fail at random, lose what is not in a closed shard (at most 512 rows or 30
seconds), and come back after a while. At the end one process publishes. Beside each case stands the
arithmetic it is checked against: images / rate, bytes / bandwidth, rows / rate of publishing.
"""

from __future__ import annotations

import argparse
import heapq
import json
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

CPU = json.loads((Path(__file__).parent / "results" / "cpu-bf16.json").read_text())
CPU_RATE = CPU["cases"]["efficientnet_lite0, photo"]["images_per_second"]["featx"]
"""Images a second of two cores, end to end: measured (make bench)."""
GPU_RATE = 8237.0
"""ResNet-50, bf16, compiled, on an RTX 4090, forward only: quoted from timm, not measured here."""
SHARD_ROWS, SHARD_SECONDS = 512, 30.0
ROW_OVERHEAD = 400  # id, path, digests, label: featx.extraction.planning
_MOST_CHUNKS = 100_000


@dataclass(frozen=True)
class Case:
    """What is extracted, and on what.

    Parameters
    ----------
    rate
        Images a second of one worker that never waits.
    image_bytes, vector_bytes
        Of one image, and of its vector as stored.
    storage, network
        Bytes a second that storage gives to all workers, and one worker can take.
    hours_between_failures
        Of one worker, on average.
    restart
        Seconds until a failed worker goes on.
    publishing
        Rows a second of the one process that publishes; 0 for a folder of shards, in place.
    spread
        Standard deviation of the workers' speeds, as a share.
    """

    name: str
    images: int
    workers: int
    rate: float
    image_bytes: int = 115_000
    vector_bytes: int = 5120
    storage: float = 2e9
    network: float = 1.2e9
    hours_between_failures: float = 500.0
    restart: float = 120.0
    publishing: float = 10_000.0
    spread: float = 0.1


CASES = (
    Case("1 million, one machine of 2 cores", 10**6, 1, CPU_RATE, storage=0.2e9),
    Case("100 million, 16 machines of 16 cores", 10**8, 16, 8 * CPU_RATE),
    Case("100 million, 4 machines with a GPU", 10**8, 4, GPU_RATE, storage=5e9),
    Case("5 billion, 64 machines with a GPU, 10 GB/s", 5 * 10**9, 64, GPU_RATE, storage=10e9),
    Case("5 billion, 64 machines with a GPU, 70 GB/s", 5 * 10**9, 64, GPU_RATE, storage=70e9),
    Case(
        "5 billion, the same, spot machines",
        5 * 10**9,
        64,
        GPU_RATE,
        storage=70e9,
        hours_between_failures=5,
        restart=300,
    ),
    Case(
        "5 billion, the same, a folder of shards",
        5 * 10**9,
        64,
        GPU_RATE,
        storage=70e9,
        publishing=0,
    ),
)


@dataclass
class _Worker:
    """A machine on its way through its chunks."""

    speed: float
    fails_after: float
    free_at: float = 0.0
    busy: float = 0.0


def simulate(case: Case, seed: int = 0) -> dict[str, float]:
    """Run a case, event by event.

    Returns
    -------
    found : hours until the last row is in a shard, machine hours, share of the workers' time spent
        computing, share of the storage's time spent serving, failures, images done twice, hours
        of publishing
    """
    rng = np.random.default_rng(seed)
    chunk = max(SHARD_ROWS, case.images // _MOST_CHUNKS, case.images // 400 // case.workers // 4)
    workers = [
        _Worker(case.rate * max(0.3, rng.normal(1, case.spread)), _life(case, rng))
        for _ in range(case.workers)
    ]
    waiting = [(0.0, k) for k in range(case.workers)]
    left, storage_free, served, failures, redone = case.images, 0.0, 0.0, 0, 0.0
    while left > 0:
        now, k = heapq.heappop(waiting)
        worker, images = workers[k], min(chunk, left)
        left -= images
        begin = max(now, storage_free)
        storage_free = begin + images * case.image_bytes / case.storage
        served += storage_free - begin
        arrived = max(storage_free, begin + images * case.image_bytes / case.network)
        start, needed = max(arrived, worker.free_at), images / worker.speed
        end = start + needed
        while worker.fails_after < needed:
            # Closed shards stay; what lay in the open one is computed again.
            lost = rng.uniform(0, min(SHARD_ROWS / worker.speed, SHARD_SECONDS))
            failures, redone = failures + 1, redone + lost * worker.speed
            end += lost + case.restart
            needed += lost
            worker.fails_after += _life(case, rng)
        worker.fails_after -= needed
        worker.busy, worker.free_at = worker.busy + needed, end
        # The next chunk is fetched while this one is computed.
        heapq.heappush(waiting, (start, k))
    wall = max(worker.free_at for worker in workers)
    return {
        "hours": wall / 3600,
        "machine_hours": wall * case.workers / 3600,
        "computing": sum(w.busy for w in workers) / (wall * case.workers),
        "storage_busy": served / wall,
        "failures": failures,
        "images_done_twice": redone,
        "publishing_hours": case.images / case.publishing / 3600 if case.publishing else 0.0,
    }


def _life(case: Case, rng: np.random.Generator) -> float:
    return float(rng.exponential(case.hours_between_failures * 3600))


def arithmetic(case: Case) -> dict[str, float]:
    """What multiplication alone gives: the larger of computing and reading."""
    computing = case.images / (case.rate * case.workers) / 3600
    reading = case.images * case.image_bytes / min(case.storage, case.network * case.workers) / 3600
    return {
        "computing_hours": computing,
        "reading_hours": reading,
        "hours": max(computing, reading),
        "source_tb": case.images * case.image_bytes / 1e12,
        "cache_tb": case.images * (case.vector_bytes + ROW_OVERHEAD) / 1e12,
        "shards": case.images / SHARD_ROWS,
    }


def measure_publishing(rows: int, width: int = 1280) -> dict[str, float]:
    """Publish a cache from shards, and give rows a second: copy, digests, reading back.

    Beside the clock's figure stands that of processor time, which other work does not change.
    """
    from featx.cache.ids import keys_of
    from featx.cache.publish import Description, write_cache
    from featx.cache.reuse import KnownRows
    from featx.cache.staging import Row, ShardWriter, parts_folder
    from featx.spec import ExtractSpec

    tap = {"name": "pool", "layer": "pool", "side": "output", "pool": "avg"}
    spec = ExtractSpec("net", "ab" * 32, (tap,), {"views": ["none"]}, {"mode": "exact"}, "fp32")
    rng, ids = np.random.default_rng(0), [f"folder/{k:09d}.jpg" for k in range(rows)]
    contents = np.array([f"{k:064x}".encode() for k in range(rows)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cache.h5"
        writer = ShardWriter(parts_folder(path), lambda: spec)
        for k, name in enumerate(ids):
            writer.add([Row(name, contents[k], (k, k), (rng.random(width, np.float32),))])
        writer.flush()
        start, spent = time.perf_counter(), time.process_time()
        known = KnownRows(spec, None, parts_folder(path) / spec.fingerprint)
        places = known.places(keys_of(contents.tolist()))
        write_cache(path, spec, Description(ids, ids), places, known.files, {})
        seconds, spent = time.perf_counter() - start, time.process_time() - spent
        return {"rows_per_second": rows / seconds, "rows_per_core_second": rows / spent}


def main() -> None:
    """Print one JSON line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--publishing", action="store_true", help="measure it and end")
    parser.add_argument("--rows", type=int, default=20_000, help="of that measurement")
    parser.add_argument("--rate", type=float, help="images a second of a worker, in every case")
    parser.add_argument("--storage", type=float, help="bytes a second, in every case")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if asked.publishing:
        print(json.dumps({k: round(v) for k, v in measure_publishing(asked.rows).items()}))
        return
    changed = {k: v for k in ("rate", "storage") if (v := getattr(asked, k)) is not None}
    for case in (replace(case, **changed) for case in CASES):
        found, expected = simulate(case, asked.seed), arithmetic(case)
        line = {
            "case": case.name,
            "simulated": {k: float(f"{v:.3g}") for k, v in found.items()},
            "arithmetic": {k: float(f"{v:.3g}") for k, v in expected.items()},
            "ratio": round(found["hours"] / expected["hours"], 3),
            "given": {k: v for k, v in asdict(case).items() if k != "name"},
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
