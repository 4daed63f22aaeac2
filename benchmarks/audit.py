"""What an audit finds of faults that were planted, and how long a large one takes.

python -m benchmarks.audit labels --cache ELPV.h5   ranking of planted label errors
python -m benchmarks.audit rate                     coverage of the estimated error rate
python -m benchmarks.audit copies                   copies found, and others left alone
python -m benchmarks.audit large                    time and memory of many rows

Each kind keeps its figures in benchmarks/results/audit.json.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from sklearn.datasets import load_digits, load_sample_images
from sklearn.metrics import roc_auc_score

import featx
from featx.auditing import (
    Stratum,
    confirm_copies,
    estimate_rate,
    review_sample,
    sketch_of,
    unit_rows,
)
from featx.sources.builtin import elpv

RESULTS = Path(__file__).parent / "results" / "audit.json"
SIDE = 120  # pixels of a crop
Array = NDArray[Any]


def flips(y: Array, share: float, seed: int) -> tuple[Array, Array]:
    """Give other labels to a share of the rows, drawn at random; and say which."""
    rng, n_classes = np.random.default_rng(seed), int(y.max()) + 1
    chosen = rng.choice(len(y), round(share * len(y)), replace=False)
    noisy, flipped = y.copy(), np.zeros(len(y), bool)
    noisy[chosen] = (y[chosen] + rng.integers(1, n_classes, len(chosen))) % n_classes
    flipped[chosen] = True
    return noisy, flipped


def ranking(X: Array, y: Array, share: float, seed: int, folder: Path) -> dict[str, float]:
    """Audit labels of which a share is wrong, and compare the ranking with what was planted."""
    noisy, flipped = flips(y, share, seed)
    path = featx.write_cache(
        folder / "v.h5", X, labels=[f"class {v}" for v in noisy], encoder="features", force=True
    )
    found = featx.audit(path, seed=seed, progress=False)
    quality = np.array([found.quality[str(k)] for k in range(len(y))])
    order, n = np.argsort(quality, kind="stable"), int(flipped.sum())
    flagged = np.isin(np.arange(len(y)), [int(name) for name in found.flagged])
    return {
        "auc": float(roc_auc_score(flipped, -quality)),
        "precision_at_k": float(flipped[order[:n]].mean()),
        "recall_at_2k": float(flipped[order[: 2 * n]].sum() / n),
        "flagged": int(flagged.sum()),
        "flagged_right": int((flagged & flipped).sum()),
        "covered": _covered(flagged, flipped, seed),
    }


def _covered(flagged: Array, wrong: Array, seed: int) -> float:
    """Share of 30 reviews of 200 rows whose interval holds the planted rate."""
    return float(np.mean([holds(flagged, wrong, 200, 30 * seed + k) for k in range(30)]))


def holds(flagged: Array, wrong: Array, n: int, seed: int) -> bool:
    """Review `n` rows, answer them truly, and say whether the interval holds the rate."""
    sample = review_sample(flagged, n, seed=seed)
    strata = []
    for name in ("flagged", "other"):
        rows = [row for row, stratum, _ in sample if stratum == name]
        size = int(np.count_nonzero(flagged == (name == "flagged")))
        strata.append(Stratum(size, len(rows), int(wrong[rows].sum())))
    found = estimate_rate(strata, seed=seed)
    return bool(found["low"] <= wrong.mean() <= found["high"])


def labels(given: argparse.Namespace) -> dict[str, Any]:
    pixels, digit = load_digits(return_X_y=True)
    sets = {"digits, pixels": (pixels.astype(np.float32), digit, 0.03)}
    if given.digits:
        with featx.open_cache(given.digits) as cache:
            sets["digits, features"] = np.asarray(cache.X), np.array(cache.y), 0.03
    with featx.open_cache(given.cache) as cache:
        p = np.array([float(v) for v in cache.columns["probability"]])
        sure = (p == 0) | (p == 1)
        sets["ELPV"] = np.asarray(cache.X)[sure], (p[sure] == 1).astype(int), 0.05
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (X, y, share) in sets.items():
            if given.only not in (None, name):
                continue
            draws = []
            for seed in range(given.draws):
                draws.append(ranking(X, y, share, seed, Path(folder)))
                print(name, seed, {k: round(v, 3) for k, v in draws[-1].items()}, flush=True)
            means = {key: float(np.mean([one[key] for one in draws])) for key in draws[0]}
            found[name] = {"rows": len(y), "planted": share, "mean": means, "draws": draws}
            print(name, "mean", {k: round(v, 4) for k, v in means.items()}, flush=True)
    return found


def rate(given: argparse.Namespace) -> dict[str, Any]:
    """Flags that find 70 % of the wrong labels and 3 % of the right ones, as on ELPV."""
    found = {}
    for rows, n, share in [
        (n_rows, n, share)
        for n_rows in (500, 2_000, 20_000)
        for n in (100, 200)
        for share in (0.02, 0.05, 0.15)
    ]:
        rng, held = np.random.default_rng(given.seed), 0
        for run in range(given.simulations):
            wrong = rng.random(rows) < share
            flagged = np.where(wrong, rng.random(rows) < 0.7, rng.random(rows) < 0.03)
            held += holds(flagged, wrong, n, run)
        found[f"{rows} rows, {n} reviewed, {share:.0%} wrong"] = held / given.simulations
        print(rows, n, share, held / given.simulations, flush=True)
    return found


def changed(image: Image.Image) -> dict[str, Image.Image]:
    """Copies of a picture."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=60)
    half = (image.width // 2, image.height // 2)
    return {
        "jpeg60": Image.open(io.BytesIO(file.getvalue())).convert("RGB"),
        "half": image.resize(half, Image.Resampling.BICUBIC),
        "brighter": ImageEnhance.Brightness(image).enhance(1.1),
    }


def photographs() -> dict[str, Image.Image]:
    """Give the photographs that scikit-learn and scikit-image bring, by name."""
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "camera.png")
    names += ("brick.png", "grass.png", "gravel.png", "motorcycle_left.png", "retina.jpg")
    found = {Path(n).stem: Image.open(folder / n).convert("RGB") for n in names}
    china, flower = (Image.fromarray(image) for image in load_sample_images().images)
    return {**found, "china": china, "flower": flower}


def crops() -> dict[str, list[Image.Image]]:
    """Cut each photograph into parts that do not overlap: a class of different pictures."""
    found: dict[str, list[Image.Image]] = {}
    for name, image in photographs().items():
        for top in range(0, image.height - SIDE + 1, SIDE):
            for left in range(0, image.width - SIDE + 1, SIDE):
                part = image.crop((left, top, left + SIDE, top + SIDE))
                grey = np.asarray(part.convert("L"))
                # Nothing can be compared where all is flat, or where brightening makes it white.
                if grey.std() > 10 and np.percentile(grey, 95) < 230:
                    found.setdefault(name, []).append(part)
    return found


def cells(n: int) -> dict[str, list[Image.Image]]:
    """Draw solar cells of ELPV, by class."""
    manifest = elpv()
    rows = np.random.default_rng(0).choice(len(manifest.ids), n, replace=False)
    found: dict[str, list[Image.Image]] = {}
    for row in rows:
        image = Image.open(io.BytesIO(manifest.read(int(row))[0])).convert("RGB")
        found.setdefault(str(manifest.labels[int(row)]), []).append(image)
    return found


def copies(given: argparse.Namespace) -> dict[str, Any]:
    found = {}
    for name, classes in {"photographs": crops(), "ELPV": cells(300)}.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = _planted(classes, Path(folder))
        print(name, found[name], flush=True)
    return found


def _planted(classes: dict[str, list[Image.Image]], folder: Path) -> dict[str, Any]:
    """Write pictures and three copies of each, and audit them by features and pixels."""
    planted: set[tuple[str, str]] = set()
    for name, images in classes.items():
        place = folder / "all" / name
        place.mkdir(parents=True)
        for k, image in enumerate(images):
            image.save(place / f"{k:03}.png")
            for how, other in changed(image).items():
                other.save(place / f"{k:03}-{how}.png")
                planted.add((f"{name}/{k:03}.png", f"{name}/{k:03}-{how}.png"))
    featx.extract(folder / "all", folder / "c.h5", progress=False)
    report = featx.audit(folder / "c.h5", progress=False)
    said = {(f["id"], f["other"]) for f in report.findings if f["kind"] == "near-duplicate"}
    said |= {(b, a) for a, b in said}
    recall = {
        how: sum(pair in said for pair in planted if pair[1].endswith(f"-{how}.png"))
        / sum(pair[1].endswith(f"-{how}.png") for pair in planted)
        for how in ("jpeg60", "half", "brighter")
    }
    false = sorted(pair for pair in said if _origin(pair[0]) < _origin(pair[1]))
    return {
        "pictures": sum(map(len, classes.values())),
        "recall": recall,
        "others_named": len(false),
        "first_others": false[:5],
        "of_2000_pairs": _confirmed(classes),
    }


def _confirmed(classes: dict[str, list[Image.Image]], n: int = 2_000) -> int:
    """Count what pixels confirm of random pairs of different pictures of one class."""
    names = [name for name, images in classes.items() for _ in images]
    sketches = [sketch_of(np.asarray(i)) for images in classes.values() for i in images]
    a, b = np.triu_indices(len(names), 1)
    same = np.flatnonzero(np.array(names)[a] == np.array(names)[b])
    drawn = np.random.default_rng(0).choice(same, min(n, len(same)), replace=False)
    return int((confirm_copies(sketches, np.stack([a[drawn], b[drawn]], axis=1)) > 0).sum())


def _origin(name: str) -> str:
    return name.split("-")[0].removesuffix(".png")


def large(given: argparse.Namespace) -> dict[str, Any]:
    """Audit random clusters of vectors, a share of them under another class."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, given.rows)
    centres = rng.normal(size=(10, given.width)).astype(np.float32)
    X = rng.normal(size=(given.rows, given.width)).astype(np.float32)
    X += 0.15 * centres[y]
    noisy, flipped = flips(y, 0.03, 0)
    with tempfile.TemporaryDirectory() as folder:
        path = featx.write_cache(
            Path(folder) / "v.h5", unit_rows(X), labels=[str(v) for v in noisy], encoder="random"
        )
        del X
        before, start = _peak(), time.perf_counter()
        found = featx.audit(path, progress=False)
        seconds = time.perf_counter() - start
    quality = np.array([found.quality[str(k)] for k in range(given.rows)])
    return {
        "rows": given.rows,
        "width": given.width,
        "seconds": seconds,
        "peak_gib": _peak(),
        "peak_before_gib": before,
        "auc": float(roc_auc_score(flipped, -quality)),
    }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Run one kind, print its figures, and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    kinds = {"labels": labels, "rate": rate, "copies": copies, "large": large}
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("--cache", type=Path, default=Path("data/elpv/efficientnet_lite0.h5"))
    parser.add_argument("--digits", type=Path, help="cache of `featx extract digits`, if any")
    parser.add_argument("--only", help="one set of the labels: ELPV, 'digits, pixels'")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--simulations", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=1280)
    given = parser.parse_args()
    found = kinds[given.kind](given)
    print(json.dumps(found))
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.parent.mkdir(exist_ok=True)
    found = {**known.get(given.kind, {}), **found}
    RESULTS.write_text(json.dumps({**known, given.kind: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
