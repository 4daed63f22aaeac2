"""Drift: false alarms on resampled batches, and how often a change of the pictures is found.

python -m benchmarks.drift MODEL SOURCE [--pictures 120]

False alarms: vectors of the training in the model file are divided at random into a reference and
a batch. Power: pictures of SOURCE that the model has not seen are blurred, darkened, compressed,
or seen by another camera (simulated: coarser, another gamma, darker corners, noise), and batches of
them are compared with the training. Unchanged, they are the control.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

import featx
from featx.auditing import unit_rows
from featx.auditing.shift import find_shift
from featx.explaining import Explainer
from featx.images import decode
from featx.model.likeness import likeness_of
from featx.sources.load import load_manifest

RESULTS = Path(__file__).parent / "results"
LEVEL = 0.05
PERMUTATIONS = 199
DRAWS = {50: (1000, 300), 200: (400, 300), 1000: (100, 900)}
"""For false alarms: size of a batch -> how many batches, and rows of the reference."""
SIZES, TRIES = (20, 50, 100), 20  # batches of changed pictures

Change = Callable[[Image.Image], Image.Image]


def jpeg(quality: int) -> Change:
    """Compress."""

    def change(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return change


def camera(strength: float) -> Change:
    """Another camera: coarser, another gamma, darker corners, noise; 1 is a plain difference."""

    def change(image: Image.Image) -> Image.Image:
        width, height = image.size
        scale = 1 - 0.4 * strength
        small = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BOX)
        pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)) / 255
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        corners = 1 - 0.15 * strength * (x**2 + y**2)[..., None]
        noise = np.random.default_rng(0).normal(0, 0.015 * strength, pixels.shape)
        seen = np.clip(pixels, 0, 1) ** (1 + 0.15 * strength) * corners + noise
        return Image.fromarray(np.clip(np.rint(255 * seen), 0, 255).astype(np.uint8))

    return change


CHANGES: dict[str, Change] = {
    "none": lambda image: image,
    "blur of 1 pixel": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "blur of 2 pixels": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    "10 % darker": lambda image: ImageEnhance.Brightness(image).enhance(0.9),
    "30 % darker": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "JPEG of quality 60": jpeg(60),
    "JPEG of quality 20": jpeg(20),
    "another camera, half as different": camera(0.5),
    "another camera": camera(1),
}


def false_alarms(rows: Any) -> dict[str, Any]:
    """Share of alarms without a change, for each size of a batch that leaves rows enough."""
    rng, found = np.random.default_rng(0), {}
    for size, (draws, n_reference) in DRAWS.items():
        if size + n_reference > len(rows):
            continue
        alarms = 0
        for k in range(draws):
            order = rng.permutation(len(rows))
            batch, reference = rows[order[:size]], rows[order[size:][:n_reference]]
            p = find_shift(reference, batch, permutations=PERMUTATIONS, seed=k).p_value
            alarms += p <= LEVEL
        found[str(size)] = {"alarms": alarms, "batches": draws, "share": round(alarms / draws, 4)}
        print("false alarms", size, found[str(size)], flush=True)
    return found


def power(rows: Any, changed: Any) -> dict[str, float]:
    """Share of batches in which the change is found, by size."""
    rng, found = np.random.default_rng(0), {}
    for size in SIZES:
        alarms = []
        for k in range(TRIES):
            batch = changed[rng.permutation(len(changed))[:size]]
            reference = rows[rng.permutation(len(rows))[:900]]
            shift = find_shift(reference, batch, permutations=PERMUTATIONS, seed=k)
            alarms.append(shift.p_value <= LEVEL)
        found[str(size)] = round(float(np.mean(alarms)), 2)
    return found


def main() -> None:
    """Print and keep both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("source")
    parser.add_argument("--pictures", type=int, default=120)
    given = parser.parse_args()
    model = featx.load_model(given.model)
    near, manifest = likeness_of(model), load_manifest(given.source)
    if near is None:
        raise SystemExit(f"{model.name} holds no vectors of its training")
    unseen = np.flatnonzero(~model.saw(list(manifest.ids), np.zeros(len(manifest), "S32")))
    some = np.random.default_rng(0).permutation(unseen)[: given.pictures]
    pictures = [Image.fromarray(decode(manifest.read(int(k))[0])) for k in some]
    result: dict[str, Any] = {
        "model": Path(given.model).name,
        "training_rows": len(near),
        "false_alarms": false_alarms(near.unit),
        "power": {},
    }
    embed = Explainer(model).features
    for name, change in CHANGES.items():
        seen = [np.array(change(picture).convert("RGB")) for picture in pictures]
        X = np.concatenate([embed(seen[k : k + 16]) for k in range(0, len(seen), 16)])
        result["power"][name] = power(near.unit, unit_rows(X))
        print(name, result["power"][name], flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "drift.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
