"""The leaderboard as a picture: score against what it costs, the Pareto front marked."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featx.cache.durable import require_writable, write_bytes
from featx.errors import FitError

if TYPE_CHECKING:
    from featx.leaderboard import Comparison, Entry

_FRONT, _OTHER = "#1b6ca8", "#9a9a9a"


def draw_leaderboard(found: Comparison, path: str | os.PathLike[str]) -> Path:
    """Draw each line of a comparison with its interval, against ms or bytes of an image.

    Milliseconds where every cache knows its own, else bytes. Lines on the Pareto front are named
    and filled; as the front counts bytes too, two of them may lie one above the other.

    Parameters
    ----------
    path
        A ``.png`` file.

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
    place = require_png(path)
    # Not pyplot: it keeps figures alive and looks for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    timed = all(row.ms_per_image is not None for row in found.rows)
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for row in found.rows:
        _draw(axes, row, float(row.ms_per_image or 0) if timed else float(row.bytes_per_image))
    base = found.baseline[found.metric]["value"]
    axes.axhline(base, color=_OTHER, linewidth=1, linestyle=":", label="baseline")
    axes.set_xscale("log")
    axes.set_xlabel("ms per image, extraction of all taps" if timed else "bytes per image")
    axes.set_ylabel(f"{found.metric}, 95 % interval")
    axes.set_title(f"{found.n_samples:,} rows, {found.folds} outer folds; named: Pareto front")
    axes.legend(loc="lower right", frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    write_bytes(place, file.getvalue())
    return place


def require_png(path: str | os.PathLike[str], *read: object) -> Path:
    """Refuse a plot that is no PNG or cannot be written, before any work is done for it."""
    place = Path(path)
    if place.suffix.lower() != ".png":
        raise FitError(f"plot {place}: the suffix is {place.suffix!r}; expected .png")
    require_writable(place, "plot", *read)
    return place


def _draw(axes: Any, row: Entry, cost: float) -> None:
    score, colour = row.score, _FRONT if row.pareto else _OTHER
    spread = [[score["value"] - score["low"]], [score["high"] - score["value"]]]
    axes.errorbar(
        cost,
        score["value"],
        yerr=spread,
        fmt="o",
        color=colour,
        markerfacecolor=colour if row.pareto else "white",
        capsize=3,
        zorder=3 if row.pareto else 2,
    )
    if row.pareto:
        axes.annotate(
            f"{Path(row.cache).stem} {row.tap} {row.head}",
            (cost, score["value"]),
            xytext=(6, 4),
            textcoords="offset points",
            fontsize=8,
        )
