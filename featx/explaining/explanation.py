"""What is said of one picture: its map, its decision, and pictures of the training beside it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featx.images import Pixels

Method = Literal["exact", "scaled", "occlusion"]

METHODS: dict[Method, str] = {
    "exact": "exact: the mean of the map plus the bias is the decision",
    "scaled": "an approximation: the mean of the map plus the bias is the decision, but the head "
    "takes a signed power of each feature, which is shared out in proportion",
    "occlusion": "an approximation: how far the score falls when a part of the picture is covered",
}


@dataclass(frozen=True)
class Neighbour:
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
    nearest_for: list[Neighbour] = field(default_factory=list, repr=False)
    nearest_against: list[Neighbour] = field(default_factory=list, repr=False)
    notes: list[str] = field(default_factory=list, repr=False)

    @property
    def is_exact(self) -> bool:
        """Whether the map is exact and not an approximation."""
        return self.method == "exact"

    def to_dict(self) -> dict[str, Any]:
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
        from featx.explaining.drawing import draw_explanation
        from featx.files import write_bytes
        from featx.fitting.plotting import require_png

        place = require_png(path, force=force)
        write_bytes(place, draw_explanation(self))
        return place

    def _repr_png_(self) -> bytes:
        from featx.explaining.drawing import draw_explanation

        return draw_explanation(self)

    def __str__(self) -> str:
        sure = "" if self.confidence is None else f", confidence {self.confidence:.3f}"
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


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
