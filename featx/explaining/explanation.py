"""The explanation of one picture: its map, its decision, and the nearest training pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from featx.backbones.reader import TapReader
from featx.images import Pixels
from featx.targets import plain_text, png_of
from featx.typing import JsonObject

_APART = 1e-5  # of the largest value of the vector: a mean summed in another order


def map_before_pooling(
    reader: TapReader, image: Tensor, tap: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float32]] | None:
    """Find the map that becomes the vector of a tap by its mean over height and width.

    Every tensor that the network computes is looked at: the last with more than one place whose
    means are the vector is the map. So it is found in front of a pooling layer, of a pooling that
    is only a call, and at a layer that gives maps itself.

    Parameters
    ----------
    reader
        In float32.
    image
        uint8, shape (1, height, width, 3).
    tap
        Number of the tap.

    Returns
    -------
    map : float64, shape (n_features, height, width)
    vector : float32, shape (n_features,)
        None, and no vector, where no map has these means: the network does more than average.
    """
    with torch.no_grad():
        vector = reader(image)[tap][0]
        found = _search(reader, image, vector)
    return None if found is None else (found.double().numpy(), vector.numpy())


def _search(reader: TapReader, image: Tensor, vector: Tensor) -> Tensor | None:
    search = _Search(vector)
    with search:
        reader(image)
    return search.found


class _Search(TorchFunctionMode):
    """Keep the last tensor seen whose means over its places are the vector."""

    def __init__(self, vector: Tensor) -> None:
        super().__init__()
        self.vector = vector
        self.found: Tensor | None = None
        self.most = _APART * float(vector.abs().max())

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._look(args)
        result = func(*args, **(kwargs or {}))
        self._look(result)
        return result

    def _look(self, values: object) -> None:
        for value in _tensors(values):
            if value.ndim != 4 or len(value) != 1 or not value.is_floating_point():
                continue
            for axes, layout in (((2, 3), (0, 1, 2)), ((1, 2), (2, 0, 1))):
                rest = ({1, 2, 3} - {*axes}).pop()
                places = value.shape[axes[0]] * value.shape[axes[1]]
                if value.shape[rest] == len(self.vector) and places > 1:
                    means = value.mean(axes, dtype=torch.float32)[0]
                    if float((means - self.vector).abs().max()) <= self.most:
                        self.found = value[0].permute(layout).float().clone()


def _tensors(values: object) -> Iterable[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)


CELLS = 8
"""Cells along each side of the picture; a cover is two of them high and wide."""
_BATCH = 16


def occlusion_map(
    pixels: Pixels, score: Callable[[Pixels], NDArray[np.float64]], fill: tuple[int, ...]
) -> NDArray[np.float64]:
    """Cover parts of a picture in turn, and give each place how much the score falls.

    Zeiler and Fergus (2014), arXiv 1311.2901, section 4.2.

    Parameters
    ----------
    pixels
        uint8, shape (height, width, 3).
    score
        From pictures, uint8 (n, height, width, 3), to a score each, shape (n,).
    fill
        Colour of the cover: the mean that the network subtracts.

    Returns
    -------
    map : float64, shape (rows, columns), at most 8 a side; each value is the mean over the covers
        that lie over its cell
    """
    edges = [np.unique(np.linspace(0, side, CELLS + 1).astype(int)) for side in pixels.shape[:2]]
    rows, columns = (len(edge) - 1 for edge in edges)
    # They run over the edge, so that each cell lies under four of them.
    corners = [(i, j) for i in range(-1, rows) for j in range(-1, columns)]
    whole = float(score(pixels[None])[0])
    total, covers = np.zeros((rows, columns)), np.zeros((rows, columns))
    for start in range(0, len(corners), _BATCH):
        some = corners[start : start + _BATCH]
        covered = np.repeat(pixels[None], len(some), axis=0)
        for picture, (i, j) in zip(covered, some, strict=True):
            top, left = edges[0][max(i, 0)], edges[1][max(j, 0)]
            picture[top : edges[0][min(i + 2, rows)], left : edges[1][min(j + 2, columns)]] = fill
        for (i, j), value in zip(some, score(covered), strict=True):
            cells = np.s_[max(i, 0) : i + 2, max(j, 0) : j + 2]
            total[cells] += whole - value
            covers[cells] += 1
    return total / covers


Method = Literal["exact", "scaled", "occlusion"]

METHODS: dict[Method, str] = {
    "exact": "exact: the mean of the map plus the bias is the decision",
    "scaled": "an approximation: the mean of the map plus the bias is the decision, but the head "
    "takes a signed power of each feature, which is shared out in proportion",
    "occlusion": "an approximation: how far the score falls when a part of the picture is covered",
}


@dataclass(frozen=True)
class TrainingPicture:
    """One picture of the training; a larger cosine similarity is nearer."""

    id: str
    label: Any
    similarity: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where the answer of a model comes from; `to_dict` is the JSON of ``featx explain --json``.

    Parameters
    ----------
    picture
        How messages name it.
    label, against
        The class that the map speaks for, and the one that it speaks against; None where that is
        every other class. Both None for a number.
    predicted, confidence
        The model's answer as `predict` gives it, and the probability of `label`, calibrated; None
        without probabilities.
    decision, bias
        Of the head, before calibration; the bias is None for an occlusion map.
    map
        float64, shape (rows, columns), over `pixels`. For ``exact`` and ``scaled``,
        ``map.mean() + bias == decision``.
    method
        ``exact``, or an approximation: ``scaled`` or ``occlusion``.
    reason
        Why it is an approximation; empty for an exact map.
    calibration
        How the decision becomes a probability: ``temperature``, ``sigmoid``, ``own`` of the head,
        or ``none``.
    layer
        Where the features are read.
    pixels
        uint8, shape (height, width, 3): the part of the picture that the network saw.
    nearest_for, nearest_against
        The nearest pictures of the training of this label, and of others; empty where unknown.
    notes
        What else a reader should know.
    mix
        float64, shape (n_outputs,): the decision as a combination of the head's outputs; empty
        where the form of the head is unknown.

    Examples
    --------
    >>> found = model.explain("one.jpg")  # doctest: +SKIP
    >>> found.map.mean() + found.bias, found.decision  # doctest: +SKIP
    (1.8437, 1.8437)
    """

    picture: str
    label: str | None
    against: str | None
    predicted: str | float
    confidence: float | None
    decision: float
    bias: float | None
    map: NDArray[np.float64] = field(repr=False)
    method: Method
    reason: str
    calibration: str
    layer: str
    pixels: Pixels = field(repr=False)
    nearest_for: list[TrainingPicture] = field(default_factory=list, repr=False)
    nearest_against: list[TrainingPicture] = field(default_factory=list, repr=False)
    notes: list[str] = field(default_factory=list, repr=False)
    mix: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), repr=False)

    @property
    def is_exact(self) -> bool:
        """True if the map is exact and not an approximation."""
        return self.method == "exact"

    def to_dict(self) -> JsonObject:
        """JSON-ready values; the pixels are left out."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        near = {name: [asdict(one) for one in getattr(self, name)] for name in _NEAR}
        return {**plain, "exact": self.is_exact, "map": self.map.tolist(), **near}

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Draw the picture and the map over it as a PNG file.

        Parameters
        ----------
        path
            A ``.png`` file.
        force
            Replace a picture that featx did not write.

        Raises
        ------
        FitError
            For another suffix.
        CacheError
            If it cannot be written.
        """
        from featx.files import write_bytes
        from featx.targets import require_png

        place = require_png(path, force=force)
        write_bytes(place, draw_explanation(self))
        return place

    def overlay(self) -> Pixels:
        """Draw the map over the picture in grey: uint8, the shape of `pixels`."""
        from PIL import Image

        grey = np.asarray(Image.fromarray(self.pixels).convert("L"), dtype=np.float32)[..., None]
        small = Image.fromarray(self.map.astype(np.float32))
        large = small.resize(grey.shape[1::-1], Image.Resampling.BILINEAR)
        share = np.asarray(large)[..., None] / max(float(np.abs(self.map).max()), 1e-12)
        colour = np.where(share > 0, _RED, _BLUE)
        drawn = grey + _OVER * np.abs(share) * (colour - grey)
        return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)

    def _repr_png_(self) -> bytes:

        return draw_explanation(self)

    def __str__(self) -> str:
        other = "" if self.label == self.predicted else f" of {self.label}"
        sure = "" if self.confidence is None else f", confidence{other} {self.confidence:.3f}"
        sides = _sides(self)
        parts = f"decision {self.decision:.5g}"
        if self.bias is not None:
            parts += f" = mean of the map {self.map.mean():.5g} + bias {self.bias:.5g}"
        lines = [
            f"{self.picture}: {_text(self.predicted)}{sure}",
            f"  map {'x'.join(map(str, self.map.shape))} of {self.layer}{sides}: {parts}",
            f"  {METHODS[self.method]}" + (f" ({self.reason})" if self.reason else ""),
            f"  calibration: {self.calibration}",
        ]
        for title, near in (("like it", self.nearest_for), ("unlike", self.nearest_against)):
            shown = ", ".join(f"{n.id} ({_text(n.label)}, {n.similarity:.3f})" for n in near)
            lines += [f"  training pictures {title}: {shown}"] if shown else []
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


_PLAIN = (
    *("picture", "label", "against", "predicted", "confidence", "decision", "bias", "method"),
    *("reason", "calibration", "layer", "notes"),
)
_NEAR = ("nearest_for", "nearest_against")


def _sides(found: Explanation) -> str:
    if found.label is None:
        return ""
    return f", for {found.label}" + (f" against {found.against}" if found.against else "")


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


_OVER = 0.55  # share of the map's colour
_RED, _BLUE = np.array([178, 24, 43]), np.array([33, 102, 172])  # the ends of RdBu


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
    figure.suptitle(plain_text(_title(found)), fontsize=11)
    figure.text(0.01, 0.0, plain_text(_below(found)), fontsize=7, va="bottom")
    return png_of(figure, 130)


def _title(found: Explanation) -> str:
    answer = found.predicted
    shown = f"{answer:.4g}" if isinstance(answer, float) else str(answer)
    if found.label is not None and found.label != shown:
        shown = f"{shown}; the map is for {found.label}"
    return shown + ("" if found.confidence is None else f" (confidence {found.confidence:.3f})")


def _legend(found: Explanation) -> str:
    if found.label is None:
        return plain_text("blue: lowers the number, red: raises it")
    return plain_text(f"red: for {found.label}, blue: for {found.against or 'other classes'}")


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
