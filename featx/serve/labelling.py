"""Pixels in, answers out: label, probabilities, nearest training images, what is unfamiliar."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featx.errors import ImageError
from featx.images import Pixels
from featx.model import Model
from featx.model.prediction import label_rows
from featx.model.rowfile import Row
from featx.serve.embedding import Embedder
from featx.serve.training import TrainingRows

MOST_NEAREST = 20


@dataclass(frozen=True)
class Answer:
    """What is said of one picture.

    Parameters
    ----------
    row
        Label, probabilities and abstaining, under the names that ``featx predict`` writes.
    nearest
        Training rows with their distances, nearest first; empty without training rows.
    unfamiliar
        Whether the nearest is further than is usual; None without training rows.
    """

    row: Row
    nearest: list[tuple[int, float]] = field(default_factory=list)
    unfamiliar: bool | None = None


@dataclass(frozen=True)
class Labeller:
    """A model, its network, and what it was trained on."""

    model: Model
    embedder: Embedder
    training: TrainingRows | None

    def __call__(self, drawn: list[Pixels]) -> list[Answer | ImageError]:
        """Answer for each picture that `Embedder.draw` drew."""
        X = self.embedder(drawn)
        finite = np.isfinite(X).all(axis=1)
        answers: list[Answer | ImageError] = [
            ImageError("the network gives NaN or infinite values for it")
        ] * len(drawn)
        if finite.any():
            found = self._answers(X[finite])
            for k, answer in zip(np.flatnonzero(finite), found, strict=True):
                answers[k] = answer
        return answers

    def _answers(self, X: Any) -> list[Answer]:
        rows, training = label_rows(self.model, X), self.training
        if training is None:
            return [Answer(row) for row in rows]
        near, distances = training.nearest(X, MOST_NEAREST)
        return [
            Answer(
                row,
                nearest=list(zip(near[k].tolist(), distances[k].tolist(), strict=True)),
                unfamiliar=bool(distances[k, 0] > training.limit),
            )
            for k, row in enumerate(rows)
        ]
