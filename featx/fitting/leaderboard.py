"""The leaderboard of `featx.compare`: its lines, its table, its Pareto front as a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featx.evaluation import json_ready
from featx.files import write_bytes
from featx.printing import leaderboard_sheet
from featx.selection.checks import Warn
from featx.targets import plain_text, png_of, require_png
from featx.typing import JsonObject

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Entry:
    """One line of the leaderboard.

    Parameters
    ----------
    score
        Accuracy, or R2 for a regression, on outer folds: ``{"value", "low", "high"}``.
    logme
        Transferability score of the features, from no fit at all.
    fit_seconds
        Of one search with its refit and the held-out answers, reading features included; mean over
        the outer folds.
    bytes_per_image
        On disk, of this tap.
    ms_per_image
        Of the extraction that made the cache, all its taps together; None if it embedded nothing.
    pareto
        Whether no other line is better in one of score, bytes and ms, and as good in the others.
    above, map_bytes
        Of a layer that `featx.tune` could cut at, when that was asked for: the share of the
        network's multiply-adds above it, and the size of one image's map as float16.
    """

    cache: str
    backbone: str
    tap: str
    head: str
    n_features: int
    score: dict[str, float]
    logme: float
    fit_seconds: float
    bytes_per_image: int
    ms_per_image: float | None
    pareto: bool = False
    above: float | None = None
    map_bytes: int | None = None


@dataclass(frozen=True, repr=False)
class Comparison:
    """A leaderboard; `to_dict` is the JSON of ``featx compare --json``.

    Parameters
    ----------
    rows
        Best first.
    selected
        What choosing the best is worth: each outer fold is predicted by the line that did best in
        the search on its training rows, so this score is not the best of many.
    metric
        ``accuracy`` or ``r2``.
    cut
        When it was asked for: ``cache``, ``backbone``, ``layer`` of the best place to cut a network
        for `featx.tune`, its ``above`` and ``map_bytes``, and ``reason``; ``layer`` is None where
        no line is of a layer with others above it.
    """

    rows: list[Entry]
    selected: JsonObject
    baseline: JsonObject
    metric: str
    folds: int
    n_samples: int
    excluded: dict[str, int]
    warnings: list[Warn] = field(default_factory=list)
    cut: JsonObject | None = None

    def to_dict(self) -> JsonObject:
        """JSON-ready values."""
        ready: JsonObject = json_ready(asdict(self))
        return ready

    def __repr__(self) -> str:
        return leaderboard_sheet(self.to_dict()).text()

    def _repr_html_(self) -> str:
        return leaderboard_sheet(self.to_dict()).html()

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each line."""
        import pandas as pd

        lines = []
        for row in self.rows:
            line = asdict(row)
            figure = line.pop("score")
            names = {"value": self.metric, "low": "low", "high": "high"}
            lines.append(line | {name: figure[key] for key, name in names.items()})
        first = ["cache", "backbone", "tap", "head", self.metric, "low", "high"]
        table = pd.DataFrame(lines)
        return table[[*first, *(c for c in table.columns if c not in first)]]


def choose_cut(found: Comparison, layers: Sequence[str]) -> Comparison:
    """Say where `featx.tune` should cut: at the lowest layer that does as well as the best line.

    Its features hold what the task needs, as far as a head can tell, and the more layers lie above,
    the more training can change. As well means: not below the interval of the best score.

    Parameters
    ----------
    found
        Lines with ``above`` and ``map_bytes`` where the layer gives a map.
    layers
        The layer of each line.
    """
    lines = [
        (row, layer)
        for row, layer in zip(found.rows, layers, strict=True)
        if row.map_bytes is not None and row.above
    ]
    if not lines:
        reason = "no line is of a layer that gives a map and has others above it"
        return replace(found, cut={"layer": None, "reason": reason})
    best = found.rows[0]
    ends = best.score.get("low")
    least = best.score["value"] if ends is None else ends
    near = [line for line in lines if line[0].score["value"] >= least]
    row, layer = max(near, key=lambda line: line[0].above or 0) if near else lines[0]
    how = f"{row.score['value']:.4f}, {100 * (row.above or 0):.0f} % of the multiply-adds above it"
    reason = f"the lowest layer that does as well as the best line ({how})"
    if not near:
        reason = f"no layer does as well as {best.tap}, this one is next ({how})"
    named = {"cache": row.cache, "backbone": row.backbone, "layer": layer}
    costs = {"above": row.above, "map_bytes": row.map_bytes}
    return replace(found, cut={**named, **costs, "reason": reason})


def pareto_front(entries: Sequence[Entry]) -> NDArray[np.bool_]:
    """Mark the lines that no other beats in score, bytes or ms without losing in another.

    Returns
    -------
    front : bool, shape (len(entries),)
    """
    timed = all(entry.ms_per_image is not None for entry in entries)
    costs = np.array(
        [
            [-e.score["value"], e.bytes_per_image, (e.ms_per_image or 0.0) if timed else 0.0]
            for e in entries
        ]
    )
    beaten = [bool(((costs <= own).all(axis=1) & (costs < own).any(axis=1)).any()) for own in costs]
    return ~np.array(beaten)


_FRONT, _OTHER = "#1b6ca8", "#9a9a9a"
_MARKERS = "osD^vPX*"
_APART = 9  # points between the heads of one tap


def draw_leaderboard(
    found: Comparison, path: str | os.PathLike[str], *, force: bool = False
) -> Path:
    """Draw each line of a comparison with its interval, against ms or bytes of an image.

    Milliseconds where every cache knows its own, else bytes. Lines on the Pareto front are named
    and filled; as the front counts bytes too, two of them may lie one above the other.

    Parameters
    ----------
    path
        A ``.png`` file.
    force
        Replace a picture that featx did not write.

    Returns
    -------
    path : as given

    Raises
    ------
    FitError
        For another suffix.
    CacheError
        If it cannot be written.

    Examples
    --------
    >>> draw_leaderboard(featx.compare(["a.h5", "b.h5"]), "board.png")  # doctest: +SKIP
    """
    place = require_png(path, force=force)
    # Not pyplot: it keeps figures alive and looks for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter

    timed = all(row.ms_per_image is not None for row in found.rows)
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    heads = sorted({row.head for row in found.rows})
    costs = [float((r.ms_per_image if timed else r.bytes_per_image) or 0) for r in found.rows]
    for row, cost in zip(found.rows, costs, strict=True):
        k = heads.index(row.head)
        # Heads of one tap cost the same: they stand side by side.
        shift = _APART * (k - (len(heads) - 1) / 2)
        _draw(axes, row, cost, _MARKERS[k % len(_MARKERS)], shift)
        if row.pareto:
            _name(axes, row, cost, shift, "left" if cost**2 <= min(costs) * max(costs) else "right")
    base = found.baseline[found.metric]["value"]
    axes.axhline(base, color=_OTHER, linewidth=1, linestyle=":")
    axes.annotate(
        "baseline",
        (1, base),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 3),
        textcoords="offset points",
        ha="right",
        fontsize=8,
    )
    axes.margins(x=0.15, y=0.08)
    axes.autoscale_view()
    for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.set_xlabel("ms per image, extraction of all taps" if timed else "bytes per image")
    axes.set_ylabel(f"{found.metric}, 95 % interval")
    axes.set_title(f"{found.n_samples:,} rows, {found.folds} outer folds; named: Pareto front")
    shapes = [
        Line2D([], [], marker=_MARKERS[k % len(_MARKERS)], color=_OTHER, linestyle="", label=head)
        for k, head in enumerate(heads)
    ]
    figure.legend(handles=shapes, loc="outside lower center", ncols=6, frameon=False)
    write_bytes(place, png_of(figure, 150))
    return place


def _draw(axes: Any, row: Entry, cost: float, marker: str, shift: float) -> None:
    from matplotlib.transforms import offset_copy

    aside = offset_copy(axes.transData, fig=axes.figure, x=shift, units="points")
    axes.update_datalim([(cost, row.score["low"]), (cost, row.score["high"])])
    score, colour = row.score, _FRONT if row.pareto else _OTHER
    spread = [[score["value"] - score["low"]], [score["high"] - score["value"]]]
    axes.errorbar(
        cost,
        score["value"],
        yerr=spread,
        fmt=marker,
        transform=aside,
        color=colour,
        markerfacecolor=colour if row.pareto else "white",
        capsize=3,
        zorder=3 if row.pareto else 2,
    )


def _name(axes: Any, row: Entry, cost: float, shift: float, side: str) -> None:
    """Write a line's name above its interval, towards the middle of the picture."""
    axes.annotate(
        plain_text(f"{Path(row.cache).stem} {row.tap} {row.head}"),
        (cost, row.score["high"]),
        xytext=(shift + (-4 if side == "left" else 4), 5),
        textcoords="offset points",
        ha=side,
        fontsize=8,
    )
