"""Which decoder, and what `--decode fast` changes: milliseconds, cosine, accuracy.

    python -m benchmarks.decoding            # prints one JSON line

Times are those of one core for decoding, resizing to 256 and cropping 224. The accuracy is that of
a linear SVM on every second cell of ELPV, enlarged to JPEGs of 2,400 pixels a side (at their own
300 pixels nothing is reduced, and the two modes read the same pixels).
"""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import simplejpeg
import torch
from PIL import Image

import featx
from benchmarks.speed import elpv_paths, write_photos
from featx.backbones import load_backbone
from featx.images import DecodePolicy, draw, draw_pixels
from featx.preprocess import Preprocess
from featx.sources.builtin import BUILT_IN

SIZES = {"500x375": (500, 375), "1920x1280": (1920, 1280), "4000x3000": (4000, 3000)}


def pillow(data: bytes, pre: Preprocess, out: Any) -> None:
    """Pillow decodes and resizes."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    short = min(image.size)
    to = [round(side * 256 / short) for side in image.size]
    left, top = (to[0] - 224) // 2, (to[1] - 224) // 2
    resized = image.resize(to, Image.Resampling.BICUBIC)
    out[0] = np.asarray(resized.crop((left, top, left + 224, top + 224)))


def pillow_tensor(data: bytes, pre: Preprocess, out: Any) -> None:
    """Pillow decodes, torch resizes uint8."""
    draw_pixels(np.array(Image.open(io.BytesIO(data)).convert("RGB")), pre, out)


def plain_simplejpeg(data: bytes, pre: Preprocess, out: Any) -> None:
    """simplejpeg decodes, torch resizes uint8, nothing is checked."""
    draw_pixels(simplejpeg.decode_jpeg(data, "RGB"), pre, out)


def exact(data: bytes, pre: Preprocess, out: Any) -> None:
    """featx."""
    draw(data, pre, out)


def fast(data: bytes, pre: Preprocess, out: Any) -> None:
    """featx with `--decode fast`."""
    draw(data, pre, out, DecodePolicy("fast"))


WAYS: dict[str, Callable[[bytes, Preprocess, Any], None]] = {
    "Pillow all the way": pillow,
    "Pillow, resize as a tensor": pillow_tensor,
    "simplejpeg, resize as a tensor": plain_simplejpeg,
    "featx": exact,
    "featx, fast": fast,
}


def milliseconds(files: list[bytes], pre: Preprocess) -> dict[str, float]:
    """Best of five rounds over the files, one core, a picture."""
    out = np.zeros((1, 224, 224, 3), np.uint8)
    best = dict.fromkeys(WAYS, np.inf)
    for _ in range(5):
        for label, way in WAYS.items():
            start = time.perf_counter()
            for data in files:
                way(data, pre, out)
            best[label] = min(best[label], (time.perf_counter() - start) / len(files))
    return {label: round(1e3 * seconds, 2) for label, seconds in best.items()}


def features(source: Any, cache: Path, mode: str) -> np.ndarray:
    """Embed in fp32, so that nothing but the decoding differs."""
    featx.extract(source, cache, decode=mode, precision="fp32", progress=False)
    with featx.open_cache(cache) as found:
        return np.asarray(found.X)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def enlarged_elpv(folder: Path) -> Path:
    """Every second cell as a JPEG of 2,400 pixels a side, in a table with its label."""
    labels = BUILT_IN["elpv"]().labels
    rows = []
    folder.mkdir()
    for k, path in list(enumerate(elpv_paths()))[::2]:
        name = f"{k:04d}.jpg"
        large = Image.open(path).resize((2400, 2400), Image.Resampling.BICUBIC)
        large.save(folder / name, quality=90)
        rows.append({"path": name, "label": labels[k]})
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def effect(source: Any, folder: Path, *, fit: bool) -> dict[str, Any]:
    """Cosine of fast to exact decoding, and the accuracy of both where there are labels."""
    caches = {mode: folder / f"{mode}.h5" for mode in ("exact", "fast")}
    found = cosines(*(features(source, cache, mode) for mode, cache in caches.items()))
    result: dict[str, Any] = {
        "lowest cosine": float(found.min()),
        "median": float(np.median(found)),
    }
    for mode, cache in caches.items():
        if fit:
            test = featx.fit(cache, "svm", repeats=10).test
            result[f"accuracy, {mode}"] = test["accuracy"]["value"]
        cache.unlink()
    return result


def main() -> None:
    """Print every figure as one JSON line."""
    torch.set_num_threads(1)
    pre = load_backbone("efficientnet_lite0").preprocess
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {size: write_photos(folder / size, 32, shape) for size, shape in SIZES.items()}
        files = {size: [Path(p).read_bytes() for p in paths[size]] for size in SIZES}
        found = {
            "milliseconds": {size: milliseconds(files[size], pre) for size in SIZES},
            "4000x3000 photographs": effect(paths["4000x3000"], folder, fit=False),
            "ELPV at 2400x2400": effect(enlarged_elpv(folder / "elpv-large"), folder, fit=True),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
