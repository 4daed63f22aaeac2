"""featx beside its peers and beside the limit of the machine, in one sitting.

    make bench            # or: python -m benchmarks.speed --device cpu --rounds 3

Systems run in turn, round by round; the medians are compared. The limit runs the same compiled
forward on pixels that are ready ("forward only"), the same decoding without a network ("decode
only"), and both on the same threads with nothing in between ("both").

On a card (``--device cuda``) featx embeds 20,000 images a run, with as many processes as it takes
by itself and with each of ``--workers``; all rounds run in one process, so that none of them pays
for the start of CUDA; and the card, its driver, and its clocks and power meanwhile are kept beside
the figures. The peers, which are written for a CPU here, are left out. What featx does is put
beside the smaller of forward alone and decoding alone, which is named. The pictures lie in the
folder of temporary files: set TMPDIR to a memory disk.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.card import describe, watched
from benchmarks.peers import PEERS, SCRIPT
from featx.backbones import load_backbone
from featx.extraction.extraction import extract
from featx.images import DecodePolicy, draw
from featx.runtime import Runner, enter_worker_thread, plan_runtime
from featx.runtime.machine import cpu_cores, device_name
from featx.spec import library_versions

RESULTS = Path(__file__).parent / "results"
NETWORKS = ("efficientnet_lite0", "resnet50", "vgg16")
NETWORKS_OF_A_CARD = (*NETWORKS, "vit_b_16", "timm:vit_small_patch14_dinov2.lvd142m")
IMAGES_OF_A_CARD = 20_000  # of a run; the slow systems take fewer
SLOW_ON_A_CARD = 1_000
# Images of one timed run: (fast systems, slow systems).
AMOUNT = {
    "efficientnet_lite0": {"photo": (1200, 120), "12mp": (160, 16), "elpv": (1200, 120)},
    "resnet50": {"photo": (240, 64), "12mp": (96, 16), "elpv": (240, 64)},
    "vgg16": {"photo": (64, 32), "12mp": (32, 16), "elpv": (64, 32)},
}


def write_photos(folder: Path, n: int, size: tuple[int, int]) -> list[str]:
    """Crops of real photographs (scikit-learn's and scikit-image's) as JPEGs of one size."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    pictures = [Image.fromarray(i) for i in load_sample_images().images]
    pictures += [
        Image.fromarray(getattr(data, name)()) for name in ("astronaut", "chelsea", "coffee")
    ]
    rng, paths = np.random.default_rng(0), []
    folder.mkdir(parents=True)
    for k in range(n):
        picture = pictures[k % len(pictures)]
        width, height = picture.size
        w, h = int(width * rng.uniform(0.5, 0.95)), int(height * rng.uniform(0.5, 0.95))
        left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
        crop = picture.crop((left, top, left + w, top + h))
        paths.append(str(folder / f"{k:05d}.jpg"))
        crop.resize(size, Image.Resampling.LANCZOS).save(paths[-1], quality=90)
    return paths


def many_names(paths: list[str], n: int) -> list[str]:
    """Give pictures further names until there are `n`: each is read and decoded every time."""
    names = list(paths)
    for k in range(len(paths), n):
        original = Path(paths[k % len(paths)])
        name = original.with_name(f"again-{k:06d}{original.suffix}")
        name.hardlink_to(original)
        names.append(str(name))
    return names[:n]


def elpv_paths() -> list[str]:
    from importlib.util import find_spec

    spec = find_spec("elpv_dataset")
    assert spec is not None
    assert spec.origin is not None
    return sorted(map(str, (Path(spec.origin).parent / "data" / "images").glob("*.png")))


def featx_run(name: str, device: str, **options: Any) -> Callable[[list[str]], float]:
    """Time as featx reports it: first read to publication, without loading and compiling."""
    weights = None if name == "efficientnet_lite0" else "random"

    def run(paths: list[str]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            result = extract(
                paths, Path(folder) / "c.h5", backbone=name, weights=weights, device=device,
                compile="auto" if device.startswith("cuda") else "on", progress=False, **options,
            )  # fmt: skip
        run.last = result.to_dict()  # type: ignore[attr-defined]
        return len(paths) / result.images_per_second

    return run


def in_threads(work: Callable[[int], int], n_threads: int, seconds: float) -> float:
    """Images a second when every thread calls `work` again and again."""
    counts, stop = [0] * n_threads, time.perf_counter() + seconds

    def loop(k: int) -> None:
        enter_worker_thread()
        while time.perf_counter() < stop:
            counts[k] += work(k)

    threads = [threading.Thread(target=loop, args=(k,)) for k in range(n_threads)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


class Limit:
    """What the machine does with the forward pass alone, decoding alone, and both."""

    def __init__(self, name: str, device: str, paths: list[str], precision: str, mode: str) -> None:
        backbone = load_backbone(name, weights=None if "lite" in name else "random")
        self.pre, self.policy = backbone.preprocess, DecodePolicy(mode)  # type: ignore[arg-type]
        compile = "auto" if device.startswith("cuda") else "on"
        self.plan = plan_runtime(device=device, precision=precision, compile=compile)
        self.reader = backbone.reader(backbone.select(), self.pre)
        self.key = f"bench {name}"
        self.data = [Path(p).read_bytes() for p in paths[:64]]
        self.threads = self.plan.threads
        # Enough to keep a card busy; each holds a batch. All launch by the runner's own thread.
        self.callers = self.threads if self.plan.kind == "cpu" else 4

    def _decode(self, batch: Any, start: int = 0) -> Any:
        for k in range(len(batch)):
            data = self.data[(start + k) % len(self.data)]
            draw(data, self.pre, batch[k : k + 1], self.policy)
        return batch

    def measure(self, seconds: float) -> dict[str, float]:
        """Images a second; the network lives only meanwhile, so that peers run as without it."""
        with Runner(self.reader, self.plan, (*self.pre.input_size, 3), self.key) as runner:
            shape = (runner.batch_size, *self.pre.input_size, 3)
            batches = [self._decode(runner.allocate(shape)) for _ in range(self.threads)]
            runner.prepare(batches[0], 100_000)
            return self._measure(runner, batches, seconds)

    def _measure(self, runner: Runner, batches: list[Any], seconds: float) -> dict[str, float]:
        def forward(k: int) -> int:
            runner(batches[k])
            return len(batches[k])

        def decode(k: int) -> int:
            return len(self._decode(batches[k], k * 7))

        def both(k: int) -> int:
            decode(k)
            return forward(k)

        works = (
            ("forward only", forward, self.callers),
            ("decode only", decode, self.threads),
            ("both", both, self.threads),
        )
        return {
            f"limit: {label}": in_threads(work, n_threads, seconds)
            for label, work, n_threads in works
        }


def amounts(name: str, kind: str, device: str) -> tuple[int, int]:
    """Images of one timed run: of featx, and of systems that are slower."""
    if device.startswith("cuda"):
        return IMAGES_OF_A_CARD, SLOW_ON_A_CARD
    return AMOUNT[name][kind]


def bench(
    name: str, kind: str, paths: list[str], device: str, rounds: int, workers: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Median images a second of every system for one network on one kind of picture."""
    fast, slow = (min(len(paths), n) for n in amounts(name, kind, device))
    mode = "fast" if kind == "12mp" else "exact"
    systems: dict[str, tuple[Callable[[list[str]], float], int]] = {
        "featx": (featx_run(name, device, decode=mode), fast),
        "featx fp32": (featx_run(name, device, decode=mode, precision="fp32"), fast),
    }
    for n in workers:
        run = featx_run(name, device, decode=mode, workers=n)
        systems[f"featx, workers {n}"] = (run, fast)
    for label, make in () if device.startswith("cuda") else PEERS.items():
        try:
            systems[label] = (make(name), slow)
        except (LookupError, ImportError) as error:
            print(f"  {label}: left out ({error})")
    for run, n in systems.values():
        run(paths[: min(n, 32)])  # warm: packages compiled, kernels chosen
    precision = systems["featx"][0].last["precision"]  # type: ignore[attr-defined]
    limits = {p: Limit(name, device, paths, p, mode) for p in dict.fromkeys((precision, "fp32"))}
    rates: dict[str, list[float]] = {}
    meanwhile: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for label, (run, n) in systems.items():
            with watched(device) as seen:
                rates.setdefault(label, []).append(n / run(paths[:n]))
            if seen:
                meanwhile[label] = seen
        for p, limit in limits.items():
            for label, rate in limit.measure(2.0).items():
                rates.setdefault(f"{label} ({p})", []).append(rate)
    found = {label: statistics.median(values) for label, values in rates.items()}
    return {
        "images_per_second": found,
        "precision": precision,
        "images": {label: n for label, (_, n) in systems.items()},
        "all": rates,
        **({"card": meanwhile} if meanwhile else {}),
        "bound": bound(found, precision),
    }


def bound(rates: dict[str, float], precision: str) -> dict[str, Any]:
    """Name the stage that no run can be faster than, its rate, and featx's share of it."""
    stages = {
        stage: rates[f"limit: {stage} ({precision})"] for stage in ("forward only", "decode only")
    }
    stage = min(stages, key=lambda name: stages[name])
    return {"stage": stage, "rate": stages[stage], "share": rates["featx"] / stages[stage]}


def summary(name: str, kind: str, found: dict[str, Any]) -> str:
    """One line: featx, the best peer, the ratio, the share of the limit."""
    rates = found["images_per_second"]
    tools = [label for label in rates if label in PEERS and label != SCRIPT]
    p, limit = found["precision"], found["bound"]
    if not tools or SCRIPT not in rates:
        return (
            f"{name:<20}{kind:<7}featx {rates['featx']:7.1f} img/s ({p}), fp32 "
            f"{rates['featx fp32']:6.1f}; {limit['share']:.0%} of {limit['stage']} "
            f"({limit['rate']:.0f} img/s)"
        )
    peer = max(tools, key=lambda label: rates[label])
    return (
        f"{name:<20}{kind:<7}featx {rates['featx']:7.1f} img/s ({p}), fp32 "
        f"{rates['featx fp32']:6.1f}; best peer {peer} {rates[peer]:6.1f}: "
        f"{rates['featx'] / rates[peer]:.1f} and {rates['featx fp32'] / rates[peer]:.1f} times; "
        f"threads script {rates[SCRIPT]:.1f}; "
        f"{rates['featx'] / rates[f'limit: both ({p})']:.0%} and "
        f"{rates['featx fp32'] / rates['limit: both (fp32)']:.0%} of the limit; "
        f"{limit['share']:.0%} of {limit['stage']}"
    )


def plot(results: dict[str, Any], target: Path) -> None:
    """Bars of every system, one panel for each network and kind of picture."""
    import matplotlib.pyplot as plt

    cases = list(results["cases"].items())
    fig, axes = plt.subplots(
        len(cases), 1, figsize=(8, 2.3 * len(cases)), layout="constrained", squeeze=False
    )
    for ax, (case, found) in zip(axes[:, 0], cases, strict=True):
        rates = dict(sorted(found["images_per_second"].items(), key=lambda item: item[1]))
        rates = {k: v for k, v in rates.items() if "only" not in k}
        colours = ["#0b6e99" if k.startswith("featx") else "#b8bec4" for k in rates]
        bars = ax.barh(list(rates), list(rates.values()), color=colours)
        ax.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
        ax.set_title(f"{case}, images a second", fontsize=10, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    fig.savefig(target, dpi=100)


def main() -> None:
    """Print a line a case; leave JSON and a plot under the device's name and native precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", default=None)
    parser.add_argument("--workers", nargs="*", type=int, default=[], help="of featx, beside auto")
    parser.add_argument("--add", action="store_true", help="keep the cases of the last sitting")
    parser.add_argument("--kinds", nargs="+", default=["photo", "12mp", "elpv"])
    asked = parser.parse_args()
    device = "cpu" if asked.device == "auto" else asked.device
    on_card = device.startswith("cuda")
    networks = asked.networks or list(NETWORKS_OF_A_CARD if on_card else NETWORKS)
    os.environ["PYTHONWARNINGS"] = "ignore"
    native = plan_runtime(device=device).precision
    results: dict[str, Any] = {
        "machine": {
            "processor": device_name(device),
            "cores": cpu_cores(),
            "precision": native,
            "card": describe(device),
        },
        "device": device,
        "versions": library_versions(),
        "cases": {},
    }
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{device.split(':')[0]}-{native}.json"
    if asked.add:
        results["cases"] = json.loads(target.read_text())["cases"]
    with tempfile.TemporaryDirectory() as folder:
        makers: dict[str, Callable[[], list[str]]] = {
            "photo": lambda: write_photos(Path(folder) / "photo", 1200, (500, 375)),
            "12mp": lambda: write_photos(Path(folder) / "12mp", 64, (4000, 3000)),
            "elpv": elpv_paths,
        }
        for kind in asked.kinds:
            paths = makers[kind]()
            if on_card and kind != "elpv":
                paths = many_names(paths, IMAGES_OF_A_CARD)
            for name in networks:
                found = bench(name, kind, paths, device, asked.rounds, tuple(asked.workers))
                results["cases"][f"{name}, {kind}"] = found
                print(summary(name, kind, found), flush=True)
                target.write_text(json.dumps(results, indent=1) + "\n")
    plot(results, target.with_suffix(".png"))


if __name__ == "__main__":
    main()
