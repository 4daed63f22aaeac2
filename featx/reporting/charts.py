"""Charts as inline SVG: axes and marks. Colours are CSS classes, so that they follow the theme.

Every text goes through markupsafe, so a label with angle brackets stays text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

Marks = Iterable[Markup]
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "plus", "down", "bar", "ring", "star")
"""One a class, so that no class is told by its colour alone."""


@dataclass(frozen=True)
class Axis:
    """A scale: its ends, its ticks (value and text), and what it says below.

    Parameters
    ----------
    log
        Whether equal ratios are equally far apart.
    """

    low: float
    high: float
    label: str = ""
    ticks: tuple[tuple[float, str], ...] = ()
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, 0 at the low end and 1 at the high end."""
        if self.log:
            span = math.log(self.high / self.low) or 1.0
            return math.log(value / self.low) / span
        return (value - self.low) / ((self.high - self.low) or 1.0)


def make_axis(low: float, high: float, label: str = "", *, percent: bool = False) -> Axis:
    """Make an axis with about five round ticks; its ends are those of the data."""
    span = (high - low) or abs(high) or 1.0
    rough = span / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step * (100 if percent else 1)) + 1e-9))
    values = [k * step for k in range(first, last + 1)]
    texts = [f"{v * 100:.{digits}f} %" if percent else f"{v + 0.0:.{digits}f}" for v in values]
    return Axis(low, high, label, tuple(zip(values, texts, strict=True)))


UNIT_TICKS = tuple((k / 5, f"{k / 5:.1f}") for k in range(6))


def unit_axis(label: str) -> Axis:
    """Make an axis from 0 to 1."""
    return Axis(0.0, 1.0, label, UNIT_TICKS)


@dataclass(frozen=True)
class Frame:
    """The rectangle in which marks stand, in units of the viewBox."""

    x: Axis
    y: Axis
    width: int = 340
    height: int = 320
    left: int = 50
    right: int = 14
    top: int = 12
    bottom: int = 44

    def px(self, value: float) -> float:
        """Horizontal place of a value."""
        return round(self.left + self.x.share(value) * (self.width - self.left - self.right), 1)

    def py(self, value: float) -> float:
        """Vertical place of a value."""
        inner = self.height - self.top - self.bottom
        return round(self.top + (1 - self.y.share(value)) * inner, 1)

    def path(self, xs: Sequence[float], ys: Sequence[float]) -> str:
        """Points as the ``d`` of a path."""
        places = [f"{self.px(x):g} {self.py(y):g}" for x, y in zip(xs, ys, strict=True)]
        return "M" + "L".join(places)


def draw(frame: Frame, title: str, description: str, *marks: Marks, kind: str = "") -> Markup:
    """Draw a chart with its axes; title and description are what a screen reader says."""
    inside = Markup("").join(m for some in marks for m in some)
    return Markup(
        '<svg class="chart {}" viewBox="0 0 {} {}" role="img" aria-label="{}">'
        "<title>{}</title><desc>{}</desc>{}{}</svg>"
    ).format(
        kind, frame.width, frame.height, f"{title}. {description}", title, description,
        Markup("").join(_axes(frame)), inside,
    )  # fmt: skip


def _axes(frame: Frame) -> list[Markup]:
    left, right = frame.left, frame.width - frame.right
    top, bottom = frame.top, frame.height - frame.bottom
    found = []
    for value, text in frame.y.ticks:
        y = frame.py(value)
        found.append(Markup('<path class="grid" d="M{} {}H{}"/>').format(left, y, right))
        found.append(label_at(left - 7, y + 4, text, "tick end"))
    for value, text in frame.x.ticks:
        x = frame.px(value)
        found.append(Markup('<path class="axis" d="M{} {}v4"/>').format(x, bottom))
        found.append(label_at(x, bottom + 17, text, "tick mid"))
    found.append(Markup('<path class="axis" d="M{} {}H{}"/>').format(left, bottom, right))
    found.append(label_at((left + right) / 2, frame.height - 6, frame.x.label, "name mid"))
    if frame.y.label:
        place = f"translate(12 {(top + bottom) / 2:g}) rotate(-90)"
        found.append(
            Markup('<text class="name mid" transform="{}">{}</text>').format(place, frame.y.label)
        )
    return found


def label_at(x: float, y: float, text: str, kind: str = "tick") -> Markup:
    """Write a text at a place in units of the viewBox."""
    return Markup('<text class="{}" x="{:g}" y="{:g}">{}</text>').format(kind, x, y, text)


def curve(frame: Frame, xs: Sequence[float], ys: Sequence[float], kind: str) -> Markup:
    """Draw a line through points."""
    return Markup('<path class="line {}" d="{}"/>').format(kind, frame.path(xs, ys))


def whisker(frame: Frame, x: float, low: float, high: float, kind: str) -> Markup:
    """Draw an interval as a vertical line."""
    return Markup('<path class="whisker {}" d="M{:g} {:g}V{:g}"/>').format(
        kind, frame.px(x), frame.py(low), frame.py(high)
    )


def dot(frame: Frame, x: float, y: float, kind: str, title: str = "", r: float = 4) -> Markup:
    """Draw a point; its title is what is said when the pointer rests on it."""
    return Markup('<circle class="dot {}" cx="{:g}" cy="{:g}" r="{:g}">{}</circle>').format(
        kind, frame.px(x), frame.py(y), r, _titled(title)
    )


def bar(frame: Frame, span: tuple[float, float], y: float, kind: str, title: str = "") -> Markup:
    """Draw a bar from the foot of the frame up to ``y`` over a span of x."""
    left, right, top = frame.px(span[0]), frame.px(span[1]), frame.py(y)
    height = frame.height - frame.bottom - top
    return Markup('<rect class="{}" x="{:g}" y="{:g}" width="{:g}" height="{:g}">{}</rect>').format(
        kind, left + 0.5, top, max(right - left - 1, 0.5), max(height, 0), _titled(title)
    )


def _titled(title: str) -> Markup:
    return Markup("<title>{}</title>").format(title) if title else Markup("")


def shape(name: str, x: float, y: float, r: float = 4.0) -> str:
    """Give the ``d`` of a marker of about the area of a circle of radius ``r``."""
    half = f"a{r:g} {r:g} 0 1 0"
    drawn = {
        "circle": f"M{x - r:.1f} {y:.1f}{half} {2 * r:g} 0{half} {-2 * r:g} 0z",
        "square": f"M{x - r * 0.9:.1f} {y - r * 0.9:.1f}h{r * 1.8:g}v{r * 1.8:g}h{-r * 1.8:g}z",
        "triangle": f"M{x:.1f} {y - r * 1.25:.1f}l{r * 1.2:g} {r * 2.1:g}h{-r * 2.4:g}z",
        "diamond": f"M{x:.1f} {y - r * 1.3:.1f}l{r * 1.3:g} {r * 1.3:g}l{-r * 1.3:g} {r * 1.3:g}"
        f"l{-r * 1.3:g} {-r * 1.3:g}z",
        "cross": f"M{x - r:.1f} {y - r:.1f}l{2 * r:g} {2 * r:g}m0 {-2 * r:g}l{-2 * r:g} {2 * r:g}",
        "plus": f"M{x - r * 1.2:.1f} {y:.1f}h{r * 2.4:g}m{-r * 1.2:g} {-r * 1.2:g}v{r * 2.4:g}",
        "down": f"M{x:.1f} {y + r * 1.25:.1f}l{-r * 1.2:g} {-r * 2.1:g}h{r * 2.4:g}z",
        "bar": f"M{x - r * 0.45:.1f} {y - r * 1.3:.1f}h{r * 0.9:g}v{r * 2.6:g}h{-r * 0.9:g}z",
        "ring": f"M{x - r * 0.6:.1f} {y:.1f}a{r * 0.6:g} {r * 0.6:g} 0 1 0 {1.2 * r:g} 0"
        f"a{r * 0.6:g} {r * 0.6:g} 0 1 0 {-1.2 * r:g} 0z",
        "star": f"M{x:.1f} {y - r * 1.5:.1f}l{r * 0.5:g} {r:g}l{r:g} {r * 0.5:g}l{-r:g} {r * 0.5:g}"
        f"l{-r * 0.5:g} {r:g}l{-r * 0.5:g} {-r:g}l{-r:g} {-r * 0.5:g}l{r:g} {-r * 0.5:g}z",
    }
    return drawn[name]
