"""What training the layers above a map is worth, and what it costs.

python -m benchmarks.tuning elpv --device cuda    accuracy on random splits of ELPV and by blocks
python -m benchmarks.tuning epoch                 an epoch from maps against one from pictures
python -m benchmarks.tuning rows                  50, 200, 1,000 and all rows of three sets
python -m benchmarks.tuning memory                peak memory with 100,000 maps of 18 KiB

What is measured is kept after each split or setting; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import featx
from featx.backbones import load_backbone
from featx.evaluation import over_repeats
from featx.items import Manifest
from featx.selection import make_split
from featx.sources.load import load_manifest
from featx.tuning.epochs import Classifier, Lesson, learn, predict
from featx.tuning.options import TuneOptions
from featx.tuning.sides import MapRows, PictureRows
from featx.tuning.upper import cut_network
from pipelines import elpv_protocol as protocol
from pipelines.elpv_protocol import figures

Array = NDArray[Any]
RESULTS = Path(__file__).parent / "results" / "tuning.json"
LITE0, CUT = "efficientnet_lite0", "blocks.4"

SETTINGS = TuneOptions(
    epochs=6, lr=1e-3, schedule="one-cycle", label_smoothing=0.1, validation=0.0, progress=False
)
"""For the rows of three sets."""

NETWORK, SIDE, LAYER = "efficientnet_lite2", 300, "blocks.3"
ELPV = TuneOptions(
    epochs=10, lr=5e-4, schedule="one-cycle", label_smoothing=0.1, validation=0.0, progress=False
)
"""The best of six settings on splits of seeds 1000 to 1002, which are not among those measured."""
CUTS = ((LITE0, "blocks.3"), (LITE0, "blocks.5"), ("resnet50", "layer2"), ("resnet50", "layer3"))


class Tuned:
    """ELPV as cached maps, and the layers above them trained on the rows of a split."""

    def __init__(self, folder: Path, cells: protocol.Cells, device: str) -> None:
        place = folder / f"elpv-{NETWORK}-{LAYER}.maps.h5"
        featx.extract(
            "elpv", place, backbone=NETWORK, layers=LAYER, pool="none", views="flips",
            view_merge="apart", dtype="float16", input_size=SIDE, crop_pct=1.0, device=device,
        )  # fmt: skip
        with featx.open_cache(place) as cache:
            self._views = [np.asarray(cache.tap(name)) for name in cache.taps]
        self._y = (cells.probability > 0.5).astype(np.int64)
        self._weight = np.where(cells.certain, 1.0, protocol.UNSURE).astype(np.float32)
        self._device = torch.device(device)

    def scores(self, train: Array, test: Array) -> Array:
        """Log odds of the test rows, the mean of the four flips."""
        network = load_backbone(NETWORK)
        cut = cut_network(network, LAYER, network.preprocess.override(input_size=SIDE))
        parameters = dict(cut.net.named_parameters())
        for name in cut.trained:
            parameters[name].requires_grad_(True)
        model = Classifier(cut.upper, cut.n_features, 2, ELPV.seed)
        rows: Any = MapRows(self._views, cut.map, np.arange(len(self._y)))  # type: ignore[arg-type]
        lesson = Lesson(rows, self._y, self._weight, train, np.zeros(0, np.intp))
        learn(model, lesson, ELPV, self._device)
        table = np.clip(predict(model, rows, test, ELPV, rows.n_views), 1e-6, 1)
        return np.asarray(np.log(table[:, 1] / table[:, 0]))


def elpv(folder: Path, repeats: int, blocks: int, out: Path, device: str) -> None:
    """Measure frozen, tuned and their average; a split that is done already is not repeated.

    Frozen is the recipe of `make elpv`. In the average each has its scores divided by their
    standard deviation.
    """
    taps = {name: protocol.views_of(one) for name, one in protocol.PASSES.items()}
    cells, kept = protocol.all_cells(), _kept(out)
    truth, tuned = cells.probability > 0.5, Tuned(folder, cells, device)
    rounds = kept.setdefault("elpv", {}).setdefault("rounds", [])
    plan = [("random", k) for k in range(repeats)] + [("blocks", k) for k in range(blocks)]
    for kind, seed in plan:
        if any(r["split"] == kind and r["seed"] == seed for r in rounds):
            continue
        start, ((train, test), inner) = time.perf_counter(), protocol.draw(cells, kind, seed)
        kernels = dict(protocol.recipes(taps, train))[protocol.ALL]
        frozen = protocol.best_scores(kernels, truth, cells, (train, test), inner)[1]
        between = time.perf_counter()
        scores = {"frozen": frozen, "tuned": tuned.scores(train, test)}
        scores["average"] = sum((s / s.std() for s in scores.values()), np.zeros(len(test)))
        found = {way: figures(truth[test].astype(int), each) for way, each in scores.items()}
        seconds = {"frozen": between - start, "tuned": time.perf_counter() - between}
        rounds.append({"split": kind, "seed": seed, "test": found, "seconds": seconds})
        kept["elpv"]["table"] = table_of(rounds)
        out.write_text(json.dumps(kept, indent=1))
        print(json.dumps(rounds[-1]), flush=True)
    print(json.dumps(kept["elpv"]["table"], indent=1))


def table_of(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and interval over splits of each way, and of its gain over frozen on the same splits."""
    table = []
    for kind in dict.fromkeys(r["split"] for r in rounds):
        mine = [r["test"] for r in rounds if r["split"] == kind]
        n_test = mine[0]["frozen"]["n_test"]
        share, n_rows = n_test / (2624 - n_test), round(min(2624, n_test * (len(mine) + 1)))
        for way in mine[0]:
            each = [{k: m[way][k] for k in ("accuracy", "roc_auc")} for m in mine]
            gains = {
                k: [round(m[way][k] - m["frozen"][k], 4) for m in mine]
                for k in ("accuracy", "roc_auc")
            }
            line = {"split": kind, "way": way, "splits": len(mine)}
            gained = {f"{k}_gain": _paired(v, share) for k, v in gains.items()}
            table.append({**line, **over_repeats(each, share, n_rows), **gained})
    return table


def _paired(gains: list[float], test_to_train: float) -> dict[str, float | None]:
    """Mean gain with the corrected resampled t interval (Nadeau and Bengio 2003)."""
    from scipy.stats import t

    n, mean = len(gains), float(np.mean(gains))
    if n < 2:
        return {"value": mean, "low": None, "high": None}
    wide = float(np.std(gains, ddof=1) * np.sqrt(1 / n + test_to_train) * t.ppf(0.975, n - 1))
    return {"value": mean, "low": mean - wide, "high": mean + wide}


def epoch_cost(out: Path, n_rows: int = 64) -> None:
    """Time one epoch from cached maps, and one from pictures whose lower part is frozen."""
    torch.set_num_threads(1)
    rng, kept = np.random.default_rng(0), _kept(out)
    pixels = rng.integers(0, 256, (n_rows, 224, 224, 3), np.uint8)
    y = rng.integers(0, 2, n_rows)
    options = TuneOptions(epochs=1, batch_size=32, validation=0.0, progress=False)
    for name, layer in CUTS:
        network = load_backbone(name, weights=None if name == LITE0 else "random")
        cut = cut_network(network, layer, network.preprocess)
        flat = rng.random((n_rows, int(np.prod(cut.map))), np.float32).astype(np.float16)
        parameters = dict(cut.net.named_parameters())
        for trained in cut.trained:
            parameters[trained].requires_grad_(True)
        bodies = {
            "maps": (cut.upper, MapRows([flat], cut.map, np.arange(n_rows))),  # type: ignore[list-item]
            "pictures": (network.reader((network.default,)), PictureRows(pixels)),
        }
        seconds: dict[str, list[float]] = {way: [] for way in bodies}
        for _ in range(3):
            for way, (body, rows) in bodies.items():
                model = Classifier(body, cut.n_features, 2, 0)
                ones, none = np.ones(n_rows, np.float32), np.zeros(0, np.intp)
                lesson = Lesson(rows, y, ones, np.arange(n_rows), none)
                start = time.process_time()
                learn(model, lesson, options, torch.device("cpu"))
                seconds[way].append(time.process_time() - start)
        best = {way: min(each) / n_rows * 1000 for way, each in seconds.items()}
        above = cut.multiply_adds[0] / cut.multiply_adds[1]
        line = {"above": above, "ms": best, "ratio": best["maps"] / best["pictures"]}
        kept.setdefault("epoch", {})[f"{name} {layer}"] = line
        out.write_text(json.dumps(kept, indent=1))
        print(name, layer, json.dumps(line), flush=True)


def memory(folder: Path, out: Path, n_rows: int = 100_000) -> None:
    """Measure the peak memory of `featx tune` by the number of pictures, one process each."""
    import pandas as pd
    from sklearn.datasets import load_digits

    digits, kept = load_digits(), _kept(out)
    rng = np.random.default_rng(0)
    for n in (n_rows // 10, n_rows):
        data = []
        for k in range(n):  # no two are equal
            pixels = digits.images[k % len(digits.images)] * 15 + rng.integers(0, 15, (8, 8))
            file = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
            data.append(file.getvalue())
        labels = digits.target[np.arange(n) % len(digits.target)].astype(str)
        source = folder / f"many-{n}.parquet"
        pd.DataFrame({"image": data, "label": labels}).to_parquet(source)
        command = [sys.executable, "-m", "featx", "tune", str(source), str(source) + ".safetensors"]
        command += ["--backbone", LITE0, "--layer", CUT, "--input-size", "144", "--epochs", "1"]
        start = time.perf_counter()
        pid = os.posix_spawn(sys.executable, [*command, "--force", "--json"], os.environ)
        _, status, used = os.wait4(pid, 0)
        line = {"status": status, "peak_mb": used.ru_maxrss / 1000}
        line |= {"maps_mb": (folder / f"{source.name}.maps.h5").stat().st_size / 1e6}
        line |= {"seconds": time.perf_counter() - start}
        kept.setdefault("memory", {})[str(n)] = line
        out.write_text(json.dumps(kept, indent=1))
        print(n, json.dumps(line), flush=True)


def photographs(folder: Path, each: int = 40, side: int = 64) -> Path:
    """Write parts of scikit-image's and scikit-learn's photographs: which one is a part of?

    The left half of a photograph trains, and its right half tests.
    """
    from skimage import data
    from sklearn.datasets import load_sample_images

    names = ("brick", "grass", "gravel", "coffee", "chelsea", "astronaut", "rocket", "retina")
    names += ("hubble_deep_field", "immunohistochemistry", "moon", "camera")
    pictures = {name: Image.fromarray(getattr(data, name)()).convert("RGB") for name in names}
    sample = load_sample_images()
    pictures |= {f"sample{k}": Image.fromarray(one) for k, one in enumerate(sample.images)}
    rng, lines = np.random.default_rng(0), ["path,label,split"]
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        width, height = picture.size
        for k in range(each):
            half = k % 4 == 3  # a quarter is tested
            left = rng.integers(0, width // 2 - side) + half * (width // 2)
            top = rng.integers(0, height - side)
            file = folder / f"{name}-{k:03d}.png"
            picture.crop((left, top, left + side, top + side)).save(file)
            lines.append(f"{file.name},{name},{'test' if half else 'train'}")
    (folder / "table.csv").write_text("\n".join(lines))
    return folder / "table.csv"


def by_rows(folder: Path, out: Path) -> None:
    """Frozen and tuned with 50, 200, 1,000 and all training rows, on the same test rows.

    With all parts of photographs, the whole network and one from random weights as well.
    """
    kept = _kept(out)
    sources = {"photographs": photographs(folder / "photographs"), "digits": "digits"}
    tables = [
        (n_rows, name, table)
        for name, source in (sources | {"elpv": "elpv"}).items()
        for n_rows, table in subsets(name, source, folder)
    ]
    for n_rows, name, table in sorted(tables):
        key = f"{name} {n_rows}"
        if key in kept.setdefault("rows", {}):
            continue
        everything = name == "photographs" and n_rows > 200
        result = featx.tune(
            table,
            folder / f"{name}-{n_rows}.safetensors",
            backbone=LITE0,
            layer=CUT,
            maps=folder / f"{name}.maps.h5",
            input_size=224 if name == "elpv" else 96,
            views="flips" if name == "elpv" else None,
            epochs=8 if n_rows > 200 else 20,
            lr=SETTINGS.lr,
            schedule=SETTINGS.schedule,
            label_smoothing=SETTINGS.label_smoothing,
            validation=0.15 if n_rows >= 200 else 0.0,  # ten classes and more among 50 rows
            batch_size=32,
            baselines=("frozen", "whole", "scratch") if everything else "frozen",
            progress=False,
            force=True,
        ).to_dict()
        kept["rows"][key] = {
            "test": {
                way: {k: one.get(k) for k in ("accuracy", "roc_auc", "seconds")}
                for way, one in result["test"].items()
            },
            "gain": {way: one["difference"] for way, one in result["paired"].items()},
            "seen": result["seen"],
        }
        out.write_text(json.dumps(kept, indent=1))
        print(key, json.dumps(kept["rows"][key]), flush=True)


def subsets(name: str, source: Any, folder: Path) -> Iterator[tuple[int, Path]]:
    """Tables with some of the training rows, drawn by class, and always the same test rows."""
    manifest = load_manifest(source)
    labels = np.array([str(one) for one in manifest.labels])
    paths = _files(manifest, folder / f"{name}-pictures")
    if manifest.split is not None:
        test = np.flatnonzero(np.array([str(s) for s in manifest.split]) == "test")
        train = np.setdiff1d(np.arange(len(labels)), test)
    else:
        train, _, test = make_split(labels, test_size=0.25, seed=0)
    for n_rows in (50, 200, 1000, len(train)):
        if n_rows > len(train):
            continue
        some = train
        if n_rows < len(train):
            kept = make_split(labels[train], test_size=n_rows / len(train), seed=1)
            some = train[kept.test]
        lines = ["path,label,split"]
        lines += [f"{paths[k]},{labels[k]},train" for k in some]
        lines += [f"{paths[k]},{labels[k]},test" for k in test]
        table = folder / f"{name}-{n_rows}.csv"
        table.write_text("\n".join(lines))
        yield n_rows, table


def _files(manifest: Manifest, folder: Path) -> list[Path]:
    """Write each picture into a file of its own, as a table names files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k in range(len(manifest)):
        paths.append(folder / f"{k:05d}.png")
        if not paths[-1].exists():
            paths[-1].write_bytes(manifest.read(k)[0])
    return paths


def _kept(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    return found


def main() -> None:
    """Run one part, and keep its figures beside those of the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("elpv", "epoch", "rows", "memory"))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--device", default="cpu", help="of elpv: where the layers are trained")
    parser.add_argument("--folder", type=Path, default=Path("data/tuning"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    asked.folder = asked.folder.resolve()  # a table names files from its own place
    asked.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if asked.part == "elpv":
        elpv(asked.folder, asked.repeats, asked.blocks, asked.out, asked.device)
    elif asked.part == "epoch":
        epoch_cost(asked.out)
    elif asked.part == "memory":
        memory(asked.folder, asked.out)
    else:
        by_rows(asked.folder, asked.out)


if __name__ == "__main__":
    main()
