"""ELPV by the protocol of its paper as far as published, on frozen features, in one table.

20 repeats of 75/25, stratified by cell type and defect probability p (Deitsch et al. 2019, arXiv
1807.02894); their indices are not published, so the protocol is approximate. Every repeat chooses
width and blend by folds of its own training rows. The passes and their shares were settled
once, by looking at the random splits: that much of the figure is not nested. Beside it stand
- splits that keep blocks of neighbours in the file on one side, as one module may be in both
  parts of a random split;
- shares settled by folds of one half of the cells alone, measured on test cells of the other half
  (training cells are of both);
- mirrored and turned copies made before the split, as several papers do: copies of one photograph
  stand on both sides, which `featx.selection.leak_warnings` says. That figure is worth nothing for
  new cells, and is here so that others of its kind can be read.

The set knows p of 0, 1/3, 2/3 and 1, so p > 1/2 and p >= 1/2 are the same
labels; the other convention calls a cell defective as soon as one expert had a doubt: p > 0.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import featx
from featx.selection import leak_warnings, make_folds, make_split
from featx.sources.load import load_manifest
from pipelines.elpv_kernels import (
    Kernels,
    logarithms,
    mean_kernels,
    prepare,
    scores_of,
    worth_of_settings,
)
from pipelines.elpv_pictures import flattened_files
from pipelines.elpv_table import SPLITS, as_text, figures, summary
from pipelines.places import cache_of

Array = NDArray[Any]

MIDDLE = ("blocks.3", "blocks.4", "blocks.5", "blocks.6")
FINE = ("blocks.3", "blocks.4")


@dataclass(frozen=True)
class Pass:
    """One run over all cells: the network, the side of its input, the views, and its layers.

    `together` averages the views' vectors; else each view keeps its own. `share` is the weight of
    its kernel in the mean. `pictures` is empty for the photographs, and ``flat`` for what is left
    of them without shading, fingers and busbars.
    """

    backbone: str
    side: int
    views: str
    layers: tuple[str, ...] = MIDDLE
    pool: str = "avgmax"
    together: bool = False
    share: int = 1
    pictures: str = ""


# The photographs are 300 pixels wide. How the channels of the middle layers vary together tells
# more of a cell than their means and maxima do, and these, of deeper layers too, err elsewhere. So
# do larger pictures, and pictures without what all cells show.
PASSES = {
    "lite2@300": Pass("efficientnet_lite2", 300, "dihedral"),
    "covariance": Pass("efficientnet_lite2", 300, "dihedral", FINE, "cov", True, 2),
    "covariance, flat": Pass("efficientnet_lite2", 300, "dihedral", FINE, "cov", True, 1, "flat"),
    "covariance, large": Pass("efficientnet_lite2", 450, "hflip", FINE, "cov", True, 1),
    "flat": Pass("efficientnet_lite2", 300, "dihedral", MIDDLE, "avgmax", True, 1, "flat"),
}
FIRST, ALL = next(iter(PASSES)), "lite2, five passes"

GAMMAS = (1.0, 2.0, 4.0)
WIDTHS = (0.25, 0.5, 1.0)
"""Of the kernels whose mean stands for a pass with its views together, in units of a gamma."""
COSTS = (3.0, 10.0, 30.0)
"""Of the machines that are averaged."""
RIDGES = (0.0, 1.0)
FOLDS = 4
UNSURE = 0.5
"""Weight of a training cell with p of 1/3 or 2/3; the others weigh 1."""

COPIES = 4
"""Views of a cell that are rows of their own where cells are augmented before the split."""
AUGMENTED_REPEATS = 5
MOST_SHARES = 6
"""Of the passes together, where shares are settled by folds."""


@dataclass(frozen=True)
class Cells:
    """What is known of each cell, in the order of the caches' rows."""

    probability: Array
    kind: Array
    block: Array
    digest: Array

    def at(self, rows: Array) -> Cells:
        """Give some cells; a row may come more than once."""
        return Cells(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def strata(self) -> Array:
        """Cell type and probability together."""
        return np.array([f"{k} {p:.2f}" for k, p in zip(self.kind, self.probability, strict=True)])

    @property
    def certain(self) -> Array:
        """Whether the experts agreed."""
        return np.isin(self.probability, (0.0, 1.0))

    def subsets(self, rows: Array) -> dict[str, Array]:
        """Rows of each line of the table."""
        return {
            "all": rows,
            "mono": rows[self.kind[rows] == "mono"],
            "poly": rows[self.kind[rows] == "poly"],
            "p 0 or 1": rows[self.certain[rows]],
        }


def main() -> None:
    """Embed what is missing, run all repeats, print the table, keep the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS))
    parser.add_argument("--out", type=Path, default=Path("data/elpv/protocol.json"))
    asked = parser.parse_args()
    start = time.perf_counter()
    taps = {name: views_of(one) for name, one in PASSES.items()}
    embedded = time.perf_counter() - start
    rounds = []
    for found in run(taps, all_cells(), asked.repeats, asked.splits):
        rounds.append(found)
        print(json.dumps(found), file=sys.stderr, flush=True)
    table = summary(rounds)
    minutes = {"embed": embedded / 60, "total": (time.perf_counter() - start) / 60}
    kept = {"table": table, "rounds": rounds, "minutes": minutes, "recipe": _recipe()}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(kept, indent=1))
    print(as_text(table, asked.repeats))
    print(f"{minutes['total']:.0f} minutes, {minutes['embed']:.0f} of them embedding; {asked.out}")


def _recipe() -> dict[str, Any]:
    passes = {name: asdict(one) for name, one in PASSES.items()}
    return {"passes": passes, "gammas": GAMMAS, "costs": COSTS, "ridges": RIDGES,
            "widths": WIDTHS, "unsure": UNSURE, "folds": FOLDS}  # fmt: skip


def _file(one: Pass) -> Path:
    pool = "" if one.pool == "avgmax" else f"-{one.pool}"
    kind = f"-{one.pictures}" if one.pictures else ""
    return cache_of("elpv", f"{one.backbone}-{one.side}-{one.views}{pool}{kind}")


def views_of(one: Pass) -> list[Array]:
    """Embed what is missing; return for each layer (n_views, n_samples, n_features)."""
    file = _file(one)
    featx.extract(
        flattened_files(file.parent / one.pictures) if one.pictures else "elpv",
        file,
        backbone=one.backbone,
        layers=one.layers,
        pool=one.pool,
        views=one.views,
        view_merge="mean" if one.together else "apart",
        input_size=one.side,
        crop_pct=1.0,
        precision="fp32",
    )
    with featx.open_cache(file) as cache:
        if [Path(name).stem for name in cache.ids] != load_manifest("elpv").ids:
            raise SystemExit(f"{file} holds other rows than the set elpv; remove it, and run again")
        layers = [f"{layer}-{one.pool}" for layer in one.layers]
        names = [[t for t in cache.taps if t.split("@")[0] == layer] for layer in layers]
        taps = [np.stack([np.asarray(cache.tap(t)) for t in each]) for each in names]
    return [logarithms(tap) for tap in taps] if one.pool == "cov" else taps


def all_cells() -> Cells:
    with featx.open_cache(_file(next(iter(PASSES.values())))) as cache:
        found = cache.columns
        return Cells(
            found["probability"],
            found["type"].astype(str),
            found["block"],
            np.asarray(cache.content_digests),
        )


def run(
    taps: dict[str, list[Array]],
    cells: Cells,
    repeats: int,
    splits: Sequence[str] = SPLITS,
) -> Iterator[dict[str, Any]]:
    """Yield what was measured on each split: recipe, setting, and figures of its test rows."""
    plain = [name for name in splits if name in ("random", "blocks")]
    yield from _over_splits(taps, cells, repeats, plain)
    if "other half" in splits:
        yield from _other_half(taps, cells, repeats)
    if "augmented" in splits:
        yield from _augmented(taps[FIRST], cells, min(repeats, AUGMENTED_REPEATS))


def _over_splits(
    taps: dict[str, list[Array]], cells: Cells, repeats: int, splits: Sequence[str]
) -> Iterator[dict[str, Any]]:
    conventions = {"p > 1/2": cells.probability > 0.5, "p > 0": cells.probability > 0}
    for split in splits:
        for repeat in range(repeats):
            (train, test), inner = draw(cells, split, repeat)
            for recipe, kernels in recipes(taps, train):
                for label, truth in conventions.items():
                    if recipe == FIRST and label != "p > 1/2":
                        continue
                    here = {"split": split, "repeat": repeat, "recipe": recipe, "label": label}
                    yield {**here, **_one(kernels, truth, cells, (train, test), inner)}


def _other_half(
    taps: dict[str, list[Array]], cells: Cells, repeats: int
) -> Iterator[dict[str, Any]]:
    """Settle the shares on one half of the cells; test on cells of the other."""
    y = cells.probability > 0.5
    half, _, rest = make_split(y, test_size=0.5, seed=0, strata=cells.strata)
    shares = settle(dict(_kernels(taps, half)), y, cells, half)
    print(f"settled on {len(half)} cells: {shares}", file=sys.stderr, flush=True)
    for repeat in range(repeats):
        more, _, test = make_split(y[rest], test_size=0.5, seed=repeat, strata=cells.strata[rest])
        train = np.sort(np.r_[half, rest[more]])
        folds, _ = make_folds(y[train], folds=FOLDS, seed=repeat, strata=cells.strata[train])
        inner = [(train[a], train[b]) for a, b in folds]
        used = {name: taps[name] for name in shares}
        kernels = _weighed(dict(_kernels(used, train)), shares)
        here = {"split": "other half", "repeat": repeat, "recipe": ALL, "label": "p > 1/2"}
        here |= {"shares": shares, "pool": len(rest)}
        yield {**here, **_one(kernels, y, cells, (train, rest[test]), inner)}


def settle(kernels: dict[str, Kernels], y: Array, cells: Cells, rows: Array) -> dict[str, int]:
    """Add shares of passes, one at a time, as long as the folds of `rows` gain by it.

    Only the labels of `rows` are seen.
    """
    folds, _ = make_folds(y[rows], folds=FOLDS, seed=0, strata=cells.strata[rows])
    inner = [(rows[a], rows[b]) for a, b in folds]
    weight = np.where(cells.certain, 1.0, UNSURE)

    def worth(shares: dict[str, int]) -> float:
        weighed = _weighed(kernels, shares)
        means = worth_of_settings(weighed, y.astype(int), weight, inner, COSTS, RIDGES)
        return max(means.values())

    shares = {next(iter(kernels)): 1}
    best = worth(shares)
    while sum(shares.values()) < MOST_SHARES:
        tried = [{**shares, name: shares.get(name, 0) + 1} for name in kernels]
        found = [worth(one) for one in tried]
        if max(found) <= best:
            break
        best, shares = max(found), tried[int(np.argmax(found))]
    return shares


def _augmented(views: list[Array], cells: Cells, repeats: int) -> Iterator[dict[str, Any]]:
    """Make copies of every cell, then split the copies: what not to do.

    The setting is one in the middle of the others, and no fold chooses it.
    """
    copies = min(COPIES, len(views[0]))
    copied = [tap[:copies].transpose(1, 0, 2).reshape(1, -1, tap.shape[2]) for tap in views]
    of = np.repeat(np.arange(len(cells.block)), copies)
    every = cells.at(of)
    y, weight = every.probability > 0.5, np.where(every.certain, 1.0, UNSURE)
    gamma, ridge = GAMMAS[1], RIDGES[0]
    for repeat in range(repeats):
        train, _, test = make_split(y, test_size=0.25, seed=repeat, strata=every.strata)
        K = mean_kernels(prepare(copied, train), train, (gamma,))[gamma]
        scores = scores_of(K, y.astype(int), weight, train, test, COSTS, [ridge])[0]
        leaks = leak_warnings(train, test, digests=every.digest)
        yield {
            **{"split": "augmented", "repeat": repeat, "recipe": FIRST, "label": "p > 1/2"},
            **{"copies": copies, "pool": len(cells.block), "warnings": leaks},
            **{"setting": {"gamma": gamma, "ridge": ridge}},
            **{"n_train": len(train), "n_test": len(test)},
            "test": _by_cells(y, scores, every, test),
        }


def recipes(taps: dict[str, list[Array]], train: Array) -> Iterator[tuple[str, Kernels]]:
    """The first pass alone, and the weighted mean over all; the scaling sees training rows only."""
    kernels = {}
    for name, found in _kernels(taps, train):
        kernels[name] = found
        if name == FIRST:
            yield name, found
    yield ALL, _weighed(kernels, {name: PASSES[name].share for name in taps})


def _weighed(kernels: dict[str, Kernels], shares: dict[str, int]) -> Kernels:
    """Average the kernels of several passes."""
    whole = sum(shares.values())
    total: Kernels = {}
    for name, share in shares.items():
        part = np.float32(share / whole)
        total = {g: total.get(g, np.zeros_like(K)) + part * K for g, K in kernels[name].items()}
    return total


def _kernels(taps: dict[str, list[Array]], train: Array) -> Iterator[tuple[str, Kernels]]:
    """Give the kernels of each pass; the scaling sees training rows only."""
    for name, views in taps.items():
        scale = PASSES[name].pool != "cov"  # whose columns are parts of one matrix
        widths = WIDTHS if PASSES[name].together else (1.0,)
        gammas = sorted({gamma * width for gamma in GAMMAS for width in widths})
        found = mean_kernels(prepare(views, train, scale), train, gammas)
        yield name, {g: np.mean([found[g * width] for width in widths], axis=0) for g in GAMMAS}


def _one(
    kernels: Kernels,
    truth: Array,
    cells: Cells,
    split: tuple[Array, Array],
    inner: Sequence[tuple[Array, Array]],
) -> dict[str, Any]:
    """Choose on the inner folds, fit on all training rows, measure on the test rows."""
    train, test = split
    setting, scores = best_scores(kernels, truth, cells, split, inner)
    sizes = {"n_train": len(train), "n_test": len(test)}
    found = _by_cells(truth.astype(int), scores, cells, test)
    return {"setting": setting, **sizes, "test": found}


def best_scores(
    kernels: Kernels,
    truth: Array,
    cells: Cells,
    split: tuple[Array, Array],
    inner: Sequence[tuple[Array, Array]],
) -> tuple[dict[str, float], Array]:
    """Give the setting that the inner folds choose, and its scores of the test rows."""
    train, test = split
    y, weight = truth.astype(int), np.where(cells.certain, 1.0, UNSURE)
    means = worth_of_settings(kernels, y, weight, inner, COSTS, RIDGES)
    gamma, ridge = max(means, key=lambda setting: means[setting])
    scores = scores_of(kernels[gamma], y, weight, train, test, COSTS, [ridge])[0]
    return {"gamma": gamma, "ridge": ridge}, scores


def draw(cells: Cells, split: str, seed: int) -> tuple[tuple[Array, Array], list[Any]]:
    """Draw training and test rows, at random or by blocks, and the inner folds of the former."""
    y = cells.probability > 0.5
    groups = cells.block if split == "blocks" else None
    train, _, test = make_split(y, groups=groups, test_size=0.25, seed=seed, strata=cells.strata)
    folds, _ = make_folds(
        y[train],
        folds=FOLDS,
        groups=None if groups is None else groups[train],
        seed=seed,
        strata=cells.strata[train],
    )
    return (train, test), [(train[a], train[b]) for a, b in folds]


def _by_cells(y: Array, scores: Array, cells: Cells, test: Array) -> dict[str, dict[str, float]]:
    """Measure the scores of test rows, all of them and each part."""
    place = {row: i for i, row in enumerate(test)}
    return {
        name: figures(y[rows], scores[[place[r] for r in rows]])
        for name, rows in cells.subsets(test).items()
    }


if __name__ == "__main__":
    main()
