"""What a fitted head says of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Scores:
    """What a fitted head says of some rows.

    Parameters
    ----------
    predicted
        Shape (n_samples,): class names, or numbers; 0 and 1, a column a class, for multilabel.
    probabilities
        Shape (n_samples, n_classes), or None.
    """

    predicted: NDArray[Any]
    probabilities: NDArray[np.float64] | None = None


def score_rows(estimator: Any, X: NDArray[np.float32], classes: list[str]) -> Scores:
    """Predict labels and, where the head gives them, probabilities of all `classes`."""
    if has_several(estimator):
        return _several(estimator, X)
    if not classes or not hasattr(estimator, "predict_proba"):
        return Scores(np.asarray(estimator.predict(X)))
    given = np.asarray(estimator.predict_proba(X), dtype=np.float64)
    # A class without training rows has probability zero, and its column stays.
    probabilities = np.zeros((len(X), len(classes)))
    probabilities[:, [classes.index(str(name)) for name in estimator.classes_]] = given
    return Scores(np.asarray(classes)[probabilities.argmax(axis=1)], probabilities)


def has_several(estimator: Any) -> bool:
    """Whether a fitted head says several labels a row."""
    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    return bool(getattr(last, "multilabel_", False) or getattr(last, "outputs_2d_", False))


def _several(estimator: Any, X: NDArray[np.float32]) -> Scores:
    if not hasattr(estimator, "predict_proba"):
        return Scores(np.asarray(estimator.predict(X), dtype=np.int8))
    given = estimator.predict_proba(X)
    if isinstance(given, list):  # neighbours give a table for each label
        given = np.stack([table[:, 1] for table in given], axis=1)
    probabilities = np.asarray(given, dtype=np.float64)
    return Scores((probabilities > 0.5).astype(np.int8), probabilities)


def joined(parts: list[Scores]) -> Scores:
    """Put the scores of consecutive batches together."""
    given = [p.probabilities for p in parts if p.probabilities is not None]
    return Scores(
        np.concatenate([p.predicted for p in parts]), np.concatenate(given) if given else None
    )
