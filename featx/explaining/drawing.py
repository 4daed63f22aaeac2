"""An explanation as a picture: what the network saw, and the map over it with its legend."""

from __future__ import annotations

import io

import numpy as np

from featx.explaining.explanation import Explanation
from featx.marks import GENERATOR

_OVER = 0.55  # share of the map's colour


def draw_explanation(found: Explanation) -> bytes:
    """Draw an explanation as PNG, marked as featx's own."""
    # Not pyplot: it keeps figures alive and looks for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(8.4, 4.8))
    room = ConstrainedLayoutEngine(rect=(0, 0.12, 1, 0.88))
    figure.set_layout_engine(room)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    height, width = found.pixels.shape[:2]
    extent = (0.0, float(width), float(height), 0.0)
    most = max(float(np.abs(found.map).max()), 1e-12)
    left.imshow(found.pixels, extent=extent)
    left.set_title("what the network saw", fontsize=9)
    grey = np.repeat(found.pixels.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    right.imshow(grey, extent=extent)
    drawn = right.imshow(
        found.map,
        cmap="RdBu_r",
        vmin=-most,
        vmax=most,
        alpha=_OVER,
        extent=extent,
        interpolation="bilinear",
    )
    exact = "exact map" if found.is_exact else f"approximate map ({found.method})"
    right.set_title(f"{exact} of {found.layer}", fontsize=9)
    for axes in (left, right):
        axes.set_axis_off()
    bar = figure.colorbar(drawn, ax=right, shrink=0.8)
    bar.set_label(_legend(found), fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle(_plain(_title(found)), fontsize=11)
    figure.text(0.01, 0.0, _plain(_below(found)), fontsize=7, va="bottom")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130, metadata={"Software": GENERATOR})
    return file.getvalue()


def _title(found: Explanation) -> str:
    answer = found.predicted
    shown = f"{answer:.4g}" if isinstance(answer, float) else str(answer)
    if found.label is not None and found.label != shown:
        shown = f"{shown}; the map is for {found.label}"
    return shown + ("" if found.confidence is None else f" (confidence {found.confidence:.3f})")


def _legend(found: Explanation) -> str:
    if found.label is None:
        return _plain("blue: lowers the number, red: raises it")
    return _plain(f"red: for {found.label}, blue: for {found.against or 'other classes'}")


def _below(found: Explanation) -> str:
    decision = f"decision {found.decision:.4g}, calibration: {found.calibration}"
    if found.bias is not None:
        mean = f"mean of the map {found.map.mean():.4g} + bias {found.bias:.4g}"
        decision = f"{mean} = {decision}"
    lines = [decision]
    for title, near in (("like it", found.nearest_for), ("unlike", found.nearest_against)):
        shown = ", ".join(f"{one.id[-40:]} ({one.label})" for one in near)
        lines += [f"training pictures {title}: {shown}"] if shown else []
    return "\n".join(lines)


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib would read mathematics
