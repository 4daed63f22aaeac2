"""ELPV by the protocol of its paper as far as published, on frozen features, in one table.

20 repeats of 75/25, stratified by cell type and defect probability p (Deitsch et al. 2019, arXiv
1807.02894); their indices are not published, so the protocol is approximate. Every repeat chooses
width and blend by folds of its own training rows. The passes and their shares were settled
once, by looking at the random splits: that much of the figure is not nested. Beside it
stand splits that keep blocks of neighbours in the file on one side, as one module may be in both
parts of a random split. The set knows p of 0, 1/3, 2/3 and 1, so p > 1/2 and p >= 1/2 are the same
labels; the other convention calls a cell defective as soon as one expert had a doubt: p > 0.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

import featx
from featx.evaluation import over_repeats
from featx.selection import make_folds, make_split
from featx.selection.sweep import in_threads
from featx.sources.load import load_manifest
from pipelines.elpv_kernels import (
    Kernels,
    logarithms,
    mean_kernels,
    prepare,
    scores_of,
)
from pipelines.elpv_pictures import flattened_files
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

PAPER = (
    ("paper: KAZE/VGG + linear SVM", 82.44, 0.8851),
    ("paper: VGG19 fine-tuned on a GPU", 88.42, 0.9442),
)


@dataclass(frozen=True)
class Cells:
    """What is known of each cell, in the order of the caches' rows."""

    probability: Array
    kind: Array
    block: Array

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
    parser.add_argument("--splits", nargs="+", default=["random", "blocks"])
    parser.add_argument("--out", type=Path, default=Path("data/elpv/protocol.json"))
    asked = parser.parse_args()
    start = time.perf_counter()
    taps = {name: _views(one) for name, one in PASSES.items()}
    embedded = time.perf_counter() - start
    rounds = []
    for found in run(taps, _cells(), asked.repeats, asked.splits):
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


def _views(one: Pass) -> list[Array]:
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


def _cells() -> Cells:
    with featx.open_cache(_file(next(iter(PASSES.values())))) as cache:
        found = cache.columns
        return Cells(found["probability"], found["type"].astype(str), found["block"])


def run(
    taps: dict[str, list[Array]],
    cells: Cells,
    repeats: int,
    splits: Sequence[str] = ("random", "blocks"),
) -> Iterator[dict[str, Any]]:
    """Yield what was measured on each split: recipe, setting, and figures of its test rows."""
    conventions = {"p > 1/2": cells.probability > 0.5, "p > 0": cells.probability > 0}
    for split in splits:
        groups = cells.block if split == "blocks" else None
        for repeat in range(repeats):
            y = conventions["p > 1/2"]
            train, _, test = make_split(
                y, groups=groups, test_size=0.25, seed=repeat, strata=cells.strata
            )
            folds, _ = make_folds(
                y[train],
                folds=FOLDS,
                groups=None if groups is None else groups[train],
                seed=repeat,
                strata=cells.strata[train],
            )
            inner = [(train[a], train[b]) for a, b in folds]
            for recipe, kernels in _recipes(taps, train):
                for label, truth in conventions.items():
                    if recipe == FIRST and label != "p > 1/2":
                        continue
                    here = {"split": split, "repeat": repeat, "recipe": recipe, "label": label}
                    yield {**here, **_one(kernels, truth, cells, (train, test), inner)}


def _recipes(taps: dict[str, list[Array]], train: Array) -> Iterator[tuple[str, Kernels]]:
    """The first pass alone, and the weighted mean over all; the scaling sees training rows only."""
    total: Kernels = {}
    whole = sum(PASSES[name].share for name in taps)
    for name, views in taps.items():
        scale = PASSES[name].pool != "cov"  # whose columns are parts of one matrix
        widths = WIDTHS if PASSES[name].together else (1.0,)
        gammas = sorted({gamma * width for gamma in GAMMAS for width in widths})
        found = mean_kernels(prepare(views, train, scale), train, gammas)
        kernels = {g: np.mean([found[g * width] for width in widths], axis=0) for g in GAMMAS}
        if name == FIRST:
            yield name, kernels
        share = np.float32(PASSES[name].share / whole)
        total = {g: total.get(g, np.zeros_like(K)) + share * K for g, K in kernels.items()}
    yield ALL, total


def _one(
    kernels: Kernels,
    truth: Array,
    cells: Cells,
    split: tuple[Array, Array],
    inner: Sequence[tuple[Array, Array]],
) -> dict[str, Any]:
    """Choose on the inner folds, fit on all training rows, measure on the test rows."""
    train, test = split
    y, weight = truth.astype(int), np.where(cells.certain, 1.0, UNSURE)
    means: dict[tuple[float, float], float] = {}
    for gamma, K in kernels.items():
        with in_threads(None, len(inner)):
            folds = Parallel()(
                delayed(scores_of)(K, y, weight, a, b, COSTS, RIDGES) for a, b in inner
            )
        for i, ridge in enumerate(RIDGES):
            measured = [figures(y[b], found[i]) for (_, b), found in zip(inner, folds, strict=True)]
            means[gamma, ridge] = float(np.mean([m["accuracy"] + m["roc_auc"] for m in measured]))
    gamma, ridge = max(means, key=lambda setting: means[setting])
    scores = scores_of(kernels[gamma], y, weight, train, test, COSTS, [ridge])[0]
    place = {row: i for i, row in enumerate(test)}
    measured_on = {
        name: figures(y[rows], scores[[place[r] for r in rows]])
        for name, rows in cells.subsets(test).items()
    }
    sizes = {"n_train": len(train), "n_test": len(test)}
    setting = {"gamma": gamma, "ridge": ridge}
    return {"setting": setting, **sizes, "test": measured_on}


def figures(y: Array, scores: Array) -> dict[str, float]:
    """Accuracy at a score of zero, the area under the ROC curve, the majority's accuracy, rows."""
    return {
        "accuracy": float(np.mean((scores > 0) == y)),
        "roc_auc": float(roc_auc_score(y, scores)),
        "majority": float(max(np.mean(y), 1 - np.mean(y))),
        "n_test": len(y),
    }


def summary(rounds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line for each recipe, split, label convention and part of the test cells."""
    table = []
    for key in dict.fromkeys((r["recipe"], r["split"], r["label"]) for r in rounds):
        mine = [r for r in rounds if (r["recipe"], r["split"], r["label"]) == key]
        share = float(np.mean([r["n_test"] / r["n_train"] for r in mine]))
        for cells in mine[0]["test"]:
            each = [r["test"][cells] for r in mine]
            tested = float(np.mean([e["n_test"] for e in each]))
            n_rows = round(tested * min(1 + 1 / share, len(each)))
            mean = over_repeats(each, share, n_rows)
            majority = mean.pop("majority")["value"]
            mean.pop("n_test")
            line = dict(zip(("recipe", "split", "label"), key, strict=True))
            table.append({**line, "cells": cells, **mean, "majority": majority})
    return table


def as_text(table: Sequence[dict[str, Any]], repeats: int) -> str:
    """Lay the table out beside the paper's figures."""
    lines = [
        f"ELPV, approximate protocol: {repeats} repeats of 75/25, mean [95 % interval]",
        f"{'':34}{'split':8}{'defect':9}{'cells':10}{'accuracy %':20}{'AUC':23}majority %",
    ]
    for name, accuracy, auc in PAPER:
        lines.append(f"{name:34}{'theirs':8}{'p > 1/2':9}{'all':10}{accuracy:<20.2f}{auc:.4f}")
    for row in table:
        a, u = row["accuracy"], row["roc_auc"]
        accuracy_text = f"{a['value']:.2%} [{a['low']:.1%}, {a['high']:.1%}]".replace("%", "")
        auc_text = f"{u['value']:.4f} [{u['low']:.3f}, {u['high']:.3f}]"
        lines.append(
            f"{'frozen: ' + row['recipe']:34}{row['split']:8}{row['label']:9}{row['cells']:10}"
            f"{accuracy_text:20}{auc_text:23}{100 * row['majority']:.1f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
