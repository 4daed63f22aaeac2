"""The leaderboard as a picture: score against what it costs, the Pareto front marked."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featx.errors import FitError
from featx.files import require_writable, write_bytes
from featx.marks import GENERATOR

if TYPE_CHECKING:
    from featx.fitting.leaderboard import Comparison, Entry

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
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, metadata={"Software": GENERATOR})
    write_bytes(place, file.getvalue())
    return place


def require_png(path: str | os.PathLike[str], *read: object, force: bool = False) -> Path:
    """Refuse a plot that is no PNG or cannot be written, before any work is done for it."""
    place = Path(path)
    if place.suffix.lower() != ".png":
        raise FitError(f"plot {place}: the suffix is {place.suffix!r}; expected .png")
    require_writable(place, "plot", *read, force=force)
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
        f"{Path(row.cache).stem} {row.tap} {row.head}",
        (cost, row.score["high"]),
        xytext=(shift + (-4 if side == "left" else 4), 5),
        textcoords="offset points",
        ha=side,
        fontsize=8,
    )
