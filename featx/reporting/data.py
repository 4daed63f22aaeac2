"""The contents of a report as plain values: arrays, dicts, and small JPEG pictures."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import FitError
from featx.typing import JsonObject, RowValues


@dataclass(frozen=True)
class FeatureMap:
    """Features of some images in two dimensions.

    Parameters
    ----------
    ids
        Names of the images, n of them.
    xy
        float, shape (n, 2).
    labels
        True label of each, as text or number.
    predicted
        What was predicted for each.
    method
        ``PCA`` or ``UMAP``.
    explained
        Share of the variance along each axis; empty for UMAP.
    """

    ids: list[str]
    xy: NDArray[np.float64] = field(repr=False)
    labels: list[Any] = field(repr=False)
    predicted: list[Any] = field(repr=False)
    method: str = "PCA"
    explained: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "xy", np.asarray(self.xy, dtype=np.float64))
        object.__setattr__(self, "explained", tuple(self.explained))
        n = len(self.ids)
        if self.xy.shape != (n, 2) or len(self.labels) != n or len(self.predicted) != n:
            raise FitError(
                f"a map of {n} images has coordinates {self.xy.shape}, {len(self.labels)} labels "
                f"and {len(self.predicted)} predictions; expected as many"
            )

    def to_dict(self) -> JsonObject:
        """JSON-ready values."""
        return {
            "ids": self.ids,
            "xy": np.round(self.xy, 4).tolist(),
            "labels": self.labels,
            "predicted": self.predicted,
            "method": self.method,
            "explained": list(self.explained),
        }


def labels_text(row: NDArray[Any], classes: Sequence[str]) -> str:
    """Write the labels that a row has.

    Examples
    --------
    >>> labels_text(np.array([1, 0, 1]), ["cat", "dog", "tree"])
    'cat, tree'
    """
    return ", ".join(name for name, on in zip(classes, row, strict=True) if on) or "none of them"


@dataclass(frozen=True)
class ReportData:
    """All that a page needs; `to_dict` and `from_dict` carry it through JSON.

    Parameters
    ----------
    figures
        What ``featx fit --json`` prints: ``test``, ``baseline``, ``confusion``, ``per_class``...
    ids
        Names of the test images, n of them.
    y_true, y_pred
        Shape (n,): class names, or numbers for a regression; 0 and 1 of shape (n, n_classes) where
        images have several labels.
    probabilities
        Shape (n, n_classes), columns in the order of ``figures["classes"]``; or None.
    task
        ``classification``, ``regression`` or ``multilabel``.
    paths
        Where each test image lay; shown in place of its id where given.
    pictures
        JPEG bytes of some images by id, at most about 96 pixels a side.
    maps
        The same of where answers come from, drawn over the picture.
    search
        The candidates: ``{"params", "mean", "std"}`` each.
    learning
        As `featx.reporting.learning_curve` gives it.
    points
        The map of the features.
    audit
        Counts of `featx.audit`, and the first findings of each kind: ``{"counts", "sections"}``.
    spec, provenance
        What the fingerprint covers, and what else is recorded.
    commands
        Lines of the shell that make the model again.
    created
        Time of the fit, ISO 8601.

    Raises
    ------
    FitError
        If lengths do not fit.
    """

    figures: JsonObject = field(repr=False)
    ids: list[str] = field(repr=False)
    y_true: RowValues = field(repr=False)
    y_pred: RowValues = field(repr=False)
    probabilities: NDArray[np.float64] | None = field(default=None, repr=False)
    task: str = "classification"
    paths: list[str] = field(default_factory=list, repr=False)
    pictures: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    maps: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    search: list[JsonObject] = field(default_factory=list, repr=False)
    learning: JsonObject | None = field(default=None, repr=False)
    points: FeatureMap | None = field(default=None, repr=False)
    audit: JsonObject = field(default_factory=dict, repr=False)
    spec: JsonObject = field(default_factory=dict, repr=False)
    provenance: JsonObject = field(default_factory=dict, repr=False)
    commands: tuple[str, ...] = ()
    created: str = ""

    def __post_init__(self) -> None:
        kind = {"regression": np.float64, "multilabel": np.int8}.get(self.task, np.str_)
        object.__setattr__(self, "y_true", np.asarray(self.y_true).astype(kind))
        object.__setattr__(self, "y_pred", np.asarray(self.y_pred).astype(kind))
        object.__setattr__(self, "commands", tuple(self.commands))
        if self.probabilities is not None:
            table = np.asarray(self.probabilities, dtype=np.float64)
            object.__setattr__(self, "probabilities", table)
        self._check_lengths()

    def _check_lengths(self) -> None:
        n = len(self.ids)
        sizes = {"labels": len(self.y_true), "predictions": len(self.y_pred)}
        if self.paths:
            sizes["paths"] = len(self.paths)
        for what, size in sizes.items():
            if size != n:
                raise FitError(f"a report of {n} test images has {size} {what}; expected as many")
        shape = (n, len(self.classes))
        if self.several and not self.y_true.shape == self.y_pred.shape == shape:
            raise FitError(
                f"a report's labels have shape {self.y_true.shape} and {self.y_pred.shape}; "
                f"expected {shape}"
            )
        if self.probabilities is not None and self.probabilities.shape != shape:
            raise FitError(
                f"a report's probabilities have shape {self.probabilities.shape}; expected {shape}"
            )

    @property
    def classes(self) -> list[str]:
        """Names of the classes; empty for a regression."""
        return [str(name) for name in self.figures.get("classes", [])]

    @property
    def several(self) -> bool:
        """True if an image may have several labels."""
        return self.task == "multilabel"

    @property
    def kinds(self) -> list[str]:
        """Legend of the map's colours: classes, or sets of labels, the most frequent first."""
        if not self.several or self.points is None:
            return self.classes
        return [text for text, _ in Counter(map(str, self.points.labels)).most_common()]

    def text(self, value: Any) -> str:
        """Write a label, or the names of several."""
        if self.several:
            return labels_text(value, self.classes)
        return f"{value:.4g}" if self.task == "regression" else str(value)

    def shown(self, row: int) -> str:
        """How a test image is named on the page."""
        return str(self.paths[row] if self.paths else self.ids[row])

    def to_dict(self) -> JsonObject:
        """JSON-ready values; pictures as base64."""
        found: JsonObject = {f.name: getattr(self, f.name) for f in fields(self)}
        found |= {"y_true": self.y_true.tolist(), "y_pred": self.y_pred.tolist()}
        if self.probabilities is not None:
            found["probabilities"] = np.round(self.probabilities, 6).tolist()
        found["points"] = None if self.points is None else self.points.to_dict()
        for name in ("pictures", "maps"):
            found[name] = {k: base64.b64encode(v).decode() for k, v in found[name].items()}
        return found | {"commands": list(self.commands)}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> ReportData:
        """Build from what `to_dict` gave."""
        values = {f.name: found[f.name] for f in fields(cls) if f.name in found}
        for name in ("pictures", "maps"):
            values[name] = {k: base64.b64decode(v) for k, v in values.get(name, {}).items()}
        if values.get("points") is not None:
            values["points"] = FeatureMap(**values["points"])
        return cls(**values)


MOST_ROWS = 20_000
"""Test images of which the page lists each; of more, the wrong ones come first."""


def prediction_rows(data: ReportData) -> JsonObject:
    """Give a row for each test image.

    Returns
    -------
    table : dict
        ``columns``: their titles; ``rows``: ``[id, name, true, predicted, figure, wrong]`` each,
        where the figure is the confidence (of numbers: the error) or None; ``left_out``: how many
        rows are not listed.
    """
    n = len(data.ids)
    wrong = _wrong(data)
    at = np.arange(n)
    if n > MOST_ROWS:
        at = np.sort(np.argsort(~wrong, kind="stable")[:MOST_ROWS])
    figures = _figures(data)
    rows = [
        [
            data.ids[k],
            data.shown(k),
            data.text(data.y_true[k]),
            data.text(data.y_pred[k]),
            None if figures is None else round(float(figures[k]), 4),
            bool(wrong[k]),
        ]
        for k in at.tolist()
    ]
    last = "Error" if data.task == "regression" else "Confidence"
    return {
        "columns": ["Image", "True", "Predicted", *([] if figures is None else [last])],
        "numeric": data.task == "regression",
        "rows": rows,
        "left_out": n - len(rows),
    }


def _wrong(data: ReportData) -> NDArray[np.bool_]:
    if data.task == "regression":
        return np.zeros(len(data.ids), dtype=bool)
    both = (data.y_true.reshape(len(data.ids), -1), data.y_pred.reshape(len(data.ids), -1))
    return np.asarray(np.not_equal(*both).any(axis=1))


def _figures(data: ReportData) -> Any:
    if data.task == "regression":
        return data.y_pred - data.y_true
    if data.probabilities is None or data.several:
        return None
    return data.probabilities.max(axis=1)
