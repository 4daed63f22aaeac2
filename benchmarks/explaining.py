"""Deletion: places that the map calls important are replaced first, beside other orders.

python -m benchmarks.explaining MODEL SOURCE [--most 30]

Pictures that the model has not seen, is right about, and is sure of. Places are replaced in two
ways: by the same places of a picture of another class (Goyal et al. 2019, arXiv 1904.07451), with
soft edges, which ends at a real picture; or by a blurred picture (Petsiuk et al. 2018, RISE, arXiv
1806.07421), which ends at one that no network was trained on. Mean decision until half of the
picture is replaced; lower is better.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

import featx
from featx.explaining import Explainer
from featx.explaining.explanation import Explanation
from featx.images import decode
from featx.sources.load import load_manifest

RESULTS = Path(__file__).parent / "results"
STEPS = 4  # until half of the picture is replaced
BLUR, EDGE = 12, 4  # pixels


def decisions(explain: Explainer, found: Explanation, order: Any, cover: Any) -> list[float]:
    """Decisions while the places of the map are replaced by those of `cover`, and at its end."""
    rows, columns = found.map.shape
    height, width = found.pixels.shape[:2]
    tops = np.linspace(0, height, rows + 1).astype(int)
    lefts = np.linspace(0, width, columns + 1).astype(int)
    mask = np.zeros((height, width), np.float32)
    pictures = [found.pixels]
    ends = np.linspace(0, len(order) / 2, STEPS + 1).round().astype(int)
    for first, last in itertools.pairwise(ends):
        for place in order[first:last]:
            i, j = divmod(int(place), columns)
            mask[tops[i] : tops[i + 1], lefts[j] : lefts[j + 1]] = 1
        soft = gaussian_filter(mask, EDGE)[..., None]
        pictures.append(np.rint((1 - soft) * found.pixels + soft * cover).astype(np.uint8))
    return explain.score(found, np.stack(pictures)).tolist()


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
    rounded = {name: round(float(value), 3) for name, value in figures.items()}
    return {**rounded, "better_on": int((apart > 0).sum())}


def chosen(explain: Explainer, given: Any, rng: np.random.Generator) -> list[Explanation]:
    """Explain unseen pictures that are labelled right, by at least `given.confidence`."""
    model, manifest = explain.model, load_manifest(given.source)
    unseen = ~model.saw(list(manifest.ids), np.zeros(len(manifest), "S32"))
    found: dict[str, list[Explanation]] = {name: [] for name in model.classes}
    most = given.most // len(model.classes)
    for k in rng.permutation(np.flatnonzero(unseen)):
        label = str(manifest.labels[k])
        if len(found[label]) < most:
            one = explain(decode(manifest.read(int(k))[0]), neighbours=0)
            if one.predicted == label and (one.confidence or 0) >= given.confidence:
                found[label].append(one)
        if all(len(some) == most for some in found.values()):
            break
    return [one for some in found.values() for one in some]


def main() -> None:
    """Print and keep mean decisions by the map and by other orders, and their differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("source", help="labelled pictures, or a built-in set")
    parser.add_argument("--most", type=int, default=30, help="pictures at most")
    parser.add_argument("--orders", type=int, default=2, help="random orders of each picture")
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backbone")
    given = parser.parse_args()
    explain = Explainer(featx.load_model(given.model), backbone=given.backbone)
    rng = np.random.default_rng(given.seed)
    pictures = chosen(explain, given, rng)
    print(f"{len(pictures)} pictures", flush=True)
    means: dict[str, dict[str, list[float]]] = {"swapped": {}, "blurred": {}}
    ends: dict[str, list[float]] = {"swapped": [], "blurred": []}
    for found in pictures:
        others = [one for one in pictures if one.label != found.label]
        blurred = gaussian_filter(found.pixels.astype(np.float32), (BLUR, BLUR, 0))
        covers = {"swapped": others[rng.integers(len(others))].pixels, "blurred": blurred}
        by_map = np.argsort(-found.map.ravel())
        shifted = [np.argsort(-moved(found.map, rng).ravel()) for _ in range(given.orders)]
        chance = [rng.permutation(found.map.size) for _ in range(given.orders)]
        orders = {"map": [by_map], "chance": chance, "moved_map": shifted, "last": [by_map[::-1]]}
        for how, cover in covers.items():
            whole = np.rint(cover)[None].astype(np.uint8)
            ends[how].append(float(explain.score(found, whole)[0]))
            for name, several in orders.items():
                value = np.mean([decisions(explain, found, one, cover) for one in several])
                means[how].setdefault(name, []).append(float(value))
    result: dict[str, Any] = {
        "model": Path(given.model).name,
        "pictures": len(pictures),
        "seed": given.seed,
        "methods": sorted({one.method for one in pictures}),
        "decision_at_first": round(float(np.mean([one.decision for one in pictures])), 3),
    }
    for how, each in means.items():
        mean = {name: round(float(np.mean(values)), 3) for name, values in each.items()}
        apart = {name: paired(each[name], each["map"], rng) for name in each if name != "map"}
        whole_end = {"mean": round(float(np.mean(ends[how])), 3)}
        whole_end["spread"] = round(float(np.std(ends[how])), 3)
        result[how] = {"mean_decision": mean, "minus_map": apart, "all_replaced": whole_end}
    print(json.dumps(result, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"explaining-{given.seed}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
