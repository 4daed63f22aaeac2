"""Losses of linear heads: value and derivative by decision, for many heads at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from featx.streaming.blocks import Array, Rows


@dataclass(frozen=True)
class Loss:
    """A convex loss of decisions.

    Parameters
    ----------
    of
        ``of(decisions, codes) -> (values, slopes)``: decisions of shape (n_rows, n_heads,
        n_outputs) become the derivatives, in place where possible; values have shape (n_rows,
        n_heads).
    curvature
        Of the loss by one output, roughly: where a descent starts from.
    intercept_cost
        Weight of the intercept in the penalty, beside 1 for a coefficient.
    """

    of: Callable[[Array, Rows], tuple[Array, Array]]
    curvature: float
    intercept_cost: float


def softmax(decisions: Array, codes: Rows) -> tuple[Array, Array]:
    """Multinomial log loss, as in LogisticRegression of three classes or more."""
    rows = np.arange(len(codes))
    decisions -= decisions.max(axis=2, keepdims=True)
    right = decisions[rows, :, codes].copy()
    np.exp(decisions, out=decisions)
    total = decisions.sum(axis=2)
    decisions /= total[:, :, None]
    decisions[rows, :, codes] -= 1
    return np.log(total) - right, decisions


def logistic(decisions: Array, codes: Rows) -> tuple[Array, Array]:
    """Log loss of two classes, one output."""
    signs = np.where(codes == 1, 1, -1).astype(decisions.dtype)[:, None]
    margins = decisions[:, :, 0] * signs
    smaller = np.exp(-np.abs(margins))
    values = np.log1p(smaller) + np.maximum(-margins, 0)
    wrong = np.where(margins > 0, smaller, 1) / (1 + smaller)
    return values, (-signs * wrong)[:, :, None]


def squared_hinge(decisions: Array, codes: Rows) -> tuple[Array, Array]:
    """One class against the rest, as in LinearSVC."""
    signs = np.full((len(codes), 1, decisions.shape[2]), -1, dtype=decisions.dtype)
    if decisions.shape[2] == 1:
        signs[:, 0, 0] = np.where(codes == 1, 1, -1)
    else:
        signs[np.arange(len(codes)), 0, codes] = 1
    decisions *= signs
    np.subtract(1, decisions, out=decisions)
    np.maximum(decisions, 0, out=decisions)
    values = np.einsum("ijk,ijk->ij", decisions, decisions)
    decisions *= -2 * signs
    return values, decisions


LOSSES: Mapping[str, Callable[[int], Loss]] = MappingProxyType(
    {
        "logreg": lambda k: Loss(softmax, (k - 1) / k**2, 0) if k > 2 else Loss(logistic, 0.25, 0),
        "svm": lambda k: Loss(squared_hinge, 2.0, 1),
    }
)
"""Loss of a head's name and its number of classes."""
