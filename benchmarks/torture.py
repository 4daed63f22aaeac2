"""Kill a run with SIGKILL at random writes, flushes and renames, and compare with a clean run.

    python -m benchmarks.torture --kills 200
    python -m benchmarks.torture --full 100       # the disk is full from a random write on
    python -m benchmarks.torture --names 50       # two writers at a time, by two names of one cache

Each trial starts from a published cache and a folder that has changed since; one run, sometimes
two, die at a random call, before or after it takes effect; the next run ends the work. The cache in
place must open and verify after every death, and the last one must equal a clean run row by row.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from featx.cache import h5file, staging
from featx.cache.cache import open_cache
from featx.errors import CacheLockedError, NoSpaceError
from featx.extraction.extraction import extract

NETWORK = """
from torch import nn

def build():
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 2))
"""
LOCKED = 3
"""Exit status of a child that another writer keeps out."""

SHARD_ROWS = 24  # many shards from few pictures


@dataclass
class Tally:
    """What all trials together came to."""

    kills: int = 0
    full: int = 0
    pairs: int = 0
    refused: int = 0
    moments: int = 0
    rows: int = 0
    lost: int = 0
    doubled: int = 0
    different: int = 0
    unreadable: int = 0
    leftovers: int = 0
    unworded: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not (
            self.lost
            or self.doubled
            or self.different
            or self.unreadable
            or self.leftovers
            or self.unworded
        )


def picture(path: Path, seed: int) -> None:
    """Write a small picture that no other seed gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC).save(path)


class Trials:
    """One folder with a source, a base cache and the cache of a clean run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "source"
        module = folder / "network.py"
        module.write_text(NETWORK)
        self.options: dict[str, Any] = {
            "backbone": f"file:{module}:build",
            "weights": "random",
            "layers": ("1",),
            "input_size": 32,
            "precision": "fp32",
            "progress": False,
            "threads": 2,
            "batch_size": 8,
        }
        staging.SHARD_ROWS = SHARD_ROWS
        for k in range(120):
            picture(self.source / "ab"[k % 2] / f"{k:03d}.bmp", k)
        self.base = folder / "base.h5"
        self.run(self.base)
        for k in range(120, 200):
            picture(self.source / "ab"[k % 2] / f"{k:03d}.bmp", k)
        for k in range(20):
            picture(self.source / "ab"[k % 2] / f"{k:03d}.bmp", 1000 + k)
        (self.source / "a" / "bad.bmp").write_bytes(b"BM no picture")
        self.clean = folder / "clean.h5"
        self.run(self.clean)

    def run(self, cache: Path, die_at: int = 0, after: bool = False) -> tuple[int, int]:
        """Run `extract` in a child that dies at a call; its status and number of calls."""
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            os._exit(self._child(cache, die_at, after, writer))
        os.close(writer)
        _, status = os.waitpid(child, 0)
        with os.fdopen(reader, "rb") as pipe:
            calls = pipe.read()
        return status, int(calls or b"0")

    def run_full(self, cache: Path, full_at: int) -> int:
        """Run `extract` in a child whose disk is full from a write on; 0 means one clear line."""
        child = os.fork()
        if not child:
            os._exit(self._full_child(cache, full_at))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _full_child(self, cache: Path, full_at: int) -> int:
        count = 0
        write, flush = h5file._Sink.write, os.fsync

        def no_space() -> OSError:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def failing_write(sink: Any, data: Any) -> int:
            nonlocal count
            count += 1
            if count >= full_at:
                sink.error = sink.error or no_space()
            return write(sink, data)

        def failing_flush(handle: int) -> None:
            if count >= full_at:
                raise no_space()
            flush(handle)

        h5file._Sink.write = failing_write  # type: ignore[method-assign,assignment]
        os.fsync = failing_flush
        try:
            extract(self.source, cache, **self.options)
        except NoSpaceError as error:
            return 0 if "needed" in str(error) and "free" in str(error) else 1
        except BaseException as error:
            print(f"child: {error!r}", file=sys.stderr)
            return 1
        return 0 if count < full_at else 1

    def trial_full(self, rng: random.Random, tally: Tally, calls: int) -> None:
        """Fill the disk once, finish, and count what differs from the clean run."""
        place = Path(tempfile.mkdtemp(dir=self.folder))
        cache = place / "c.h5"
        shutil.copy(self.base, cache)
        before = cache.read_bytes()
        tally.unworded += self.run_full(cache, rng.randint(1, calls)) != 0
        tally.full += 1
        if cache.read_bytes() != before and not _verifies(cache):
            tally.unreadable += 1
        self._finish(place, cache, tally)

    def trial_names(self, rng: random.Random, tally: Tally) -> None:
        """Let two runs write one cache at a time, each by a name of its own; then finish."""
        place = Path(tempfile.mkdtemp(dir=self.folder))
        cache, link, folder = place / "c.h5", place / "link.h5", Path(f"{place}-too")
        shutil.copy(self.base, cache)
        link.symlink_to(cache.name)
        folder.symlink_to(place)
        names = [cache, *rng.sample([link, folder / cache.name, folder / link.name], 1)]
        rng.shuffle(names)
        codes = [
            os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            for child in [self._start(name) for name in names]
        ]
        tally.pairs += 1
        tally.refused += codes.count(LOCKED)
        tally.unworded += any(code not in (0, LOCKED) for code in codes) or 0 not in codes
        tally.unreadable += not _verifies(cache)
        tally.different += not link.is_symlink()
        folder.unlink()
        link.unlink()
        self._finish(place, cache, tally)

    def _start(self, cache: Path) -> int:
        """Start a run in a child of its own, which ends with 0, or with `LOCKED`."""
        child = os.fork()
        if child:
            return child
        try:
            extract(self.source, cache, **self.options)
            os._exit(0)
        except CacheLockedError:
            os._exit(LOCKED)
        except BaseException as error:
            print(f"child: {error!r}", file=sys.stderr)
            os._exit(1)

    def _child(self, cache: Path, die_at: int, after: bool, writer: int) -> int:
        count = 0

        def fatal(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                now = count == die_at
                if now and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = function(*args, **options)
                if now:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return call

        os.fsync = fatal(os.fsync)
        os.replace = fatal(os.replace)
        h5file._Sink.write = fatal(h5file._Sink.write)
        try:
            extract(self.source, cache, **self.options)
        except BaseException as error:
            print(f"child: {error!r}", file=sys.stderr)
            return 1
        os.write(writer, str(count).encode())
        return 0

    def trial(self, rng: random.Random, tally: Tally, calls: int) -> None:
        """Kill once or twice, finish, and count what differs from the clean run."""
        place = Path(tempfile.mkdtemp(dir=self.folder))
        cache = place / "c.h5"
        if rng.random() < 0.5:
            shutil.copy(self.base, cache)
        for _ in range(rng.choice((1, 1, 2))):
            status, _ = self.run(cache, rng.randint(1, calls), rng.random() < 0.5)
            tally.kills += os.WIFSIGNALED(status)
            if cache.exists() and not _verifies(cache):
                tally.unreadable += 1
        self._finish(place, cache, tally)

    def _finish(self, place: Path, cache: Path, tally: Tally) -> None:
        status, _ = self.run(cache)
        tally.unreadable += status != 0
        self._compare(cache, tally)
        tally.leftovers += len(list(place.iterdir())) - 1
        shutil.rmtree(place)

    def _compare(self, cache: Path, tally: Tally) -> None:
        with open_cache(self.clean) as wanted, open_cache(cache) as found:
            rows = {name: row for row, name in enumerate(found.ids)}
            tally.rows += len(wanted)
            tally.doubled += len(found.ids) - len(rows)
            tally.lost += sum(name not in rows for name in wanted.ids)
            X, Y = np.asarray(wanted.X), np.asarray(found.X)
            same = found.ids == wanted.ids and found.failed == wanted.failed
            tally.different += not same
            for row, name in enumerate(wanted.ids):
                if name in rows:
                    tally.different += not np.allclose(X[row], Y[rows[name]], rtol=1e-5, atol=1e-6)


def _verifies(cache: Path) -> bool:
    with open_cache(cache) as found:
        return found.verify().ok


def torture(kills: int, full: int, names: int, seed: int) -> Tally:
    """Run trials until there were so many kills, full disks, and pairs of writers."""
    rng, tally, start = random.Random(seed), Tally(), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        trials = Trials(Path(name))
        probe = Path(name) / "probe.h5"
        _, calls = trials.run(probe)
        tally.moments = calls
        while tally.kills < kills:
            trials.trial(rng, tally, calls)
            if sys.stderr.isatty():
                print(f"\r{tally.kills} kills", end="", file=sys.stderr)
        while tally.full < full:
            trials.trial_full(rng, tally, calls)
        while tally.pairs < names:
            trials.trial_names(rng, tally)
    tally.seconds = time.monotonic() - start
    return tally


def main() -> None:
    """Print the tally as one JSON object; exit status 1 unless nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--full", type=int, default=0)
    parser.add_argument("--names", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    tally = torture(asked.kills, asked.full, asked.names, asked.seed)
    print(json.dumps(asdict(tally) | {"ok": tally.ok}))
    sys.exit(not tally.ok)


if __name__ == "__main__":
    main()
