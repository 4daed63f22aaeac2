"""Deletion: what the map calls important is blurred first, beside random places, and beside the
map itself at another place.

python -m benchmarks.explaining MODEL PICTURE... (folders are their pictures)
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

import featx
from featx.explaining import Explainer
from featx.explaining.explaining import score_of
from featx.explaining.explanation import Explanation
from featx.sources.load import load_manifest

RESULTS = Path(__file__).parent / "results"
STEPS = 7
BLUR = 12  # pixels


def deletion(explainer: Explainer, found: Explanation, order: Any, side: Any) -> float:
    """Mean decision while the places of the map are blurred in an order, in steps.

    Lower is better: the decision falls sooner. Blurred and not painted over, as a network answers
    to the edges of paint too.
    """
    rows, columns = found.map.shape
    blurred = Image.fromarray(found.pixels).filter(ImageFilter.GaussianBlur(BLUR))
    cover = np.asarray(blurred)
    height, width = found.pixels.shape[:2]
    tops = np.linspace(0, height, rows + 1).astype(int)
    lefts = np.linspace(0, width, columns + 1).astype(int)
    picture, pictures = found.pixels.copy(), [found.pixels.copy()]
    ends = np.linspace(0, len(order), STEPS + 1).astype(int)
    for first, last in itertools.pairwise(ends):
        for place in order[first:last]:
            i, j = divmod(int(place), columns)
            where = np.s_[tops[i] : tops[i + 1], lefts[j] : lefts[j + 1]]
            picture[where] = cover[where]
        pictures.append(picture.copy())
    X = explainer.embed(np.stack(pictures))
    scores = score_of(explainer.model, X, side.label, side.against, side.mix)
    return float(np.trapezoid(scores, dx=1 / STEPS))


def moved(values: Any, rng: np.random.Generator) -> Any:
    """Turn and shift a map at random: the same patches, at places that mean nothing.

    Scattered covers disturb a network more than the same area in one piece does.
    """
    turned = np.rot90(values, rng.integers(4)) if values.shape[0] == values.shape[1] else values
    flipped = turned[:: rng.choice([-1, 1])]
    return np.roll(flipped, rng.integers(0, values.shape), axis=(0, 1))


def paired(others: Any, own: Any, rng: np.random.Generator) -> dict[str, Any]:
    """Mean difference, with a bootstrapped interval; where it is positive, own is better."""
    apart = np.array(others) - np.array(own)
    means = rng.choice(apart, (2000, len(apart))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    figures = {"value": apart.mean(), "low": low, "high": high}
    rounded = {name: round(float(value), 4) for name, value in figures.items()}
    return {**rounded, "better_on": int((apart > 0).sum())}


def main() -> None:
    """Print and keep the mean decisions of both, and their paired difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--most", type=int, default=20, help="pictures at most")
    parser.add_argument("--orders", type=int, default=5, help="random orders of each picture")
    parser.add_argument("--backbone")
    given = parser.parse_args()
    explainer = Explainer(featx.load_model(given.model), backbone=given.backbone)
    paths: list[Any] = []
    for one in given.pictures:
        paths += list(load_manifest(one).paths) if Path(one).is_dir() else [one]
    rng = np.random.default_rng(0)
    paths = [paths[k] for k in rng.permutation(len(paths))[: given.most]]
    by_map, by_chance, by_moved, methods = [], [], [], set()
    for path in paths:
        found, side = explainer.explained(path)
        methods.add(found.method)
        n = found.map.size
        by_map.append(deletion(explainer, found, np.argsort(-found.map.ravel()), side))
        orders = [rng.permutation(n) for _ in range(given.orders)]
        by_chance.append(np.mean([deletion(explainer, found, o, side) for o in orders]))
        orders = [np.argsort(-moved(found.map, rng).ravel()) for _ in range(given.orders)]
        by_moved.append(np.mean([deletion(explainer, found, o, side) for o in orders]))
    result = {
        "model": Path(given.model).name,
        "pictures": len(paths),
        "methods": sorted(methods),
        "mean_decision_by_map": round(float(np.mean(by_map)), 4),
        "mean_decision_by_chance": round(float(np.mean(by_chance)), 4),
        "mean_decision_by_moved_map": round(float(np.mean(by_moved)), 4),
        "beside_chance": paired(by_chance, by_map, rng),
        "beside_moved_map": paired(by_moved, by_map, rng),
    }
    print(json.dumps(result))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "explaining.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
