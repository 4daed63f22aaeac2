"""Logistic regression and linear SVM by full gradients, many strengths and folds in each pass.

Each head descends by L-BFGS (Nocedal 1980) of its own, in the coordinates of the eigenvectors of
the features' correlations: there the penalty and most of the loss's curvature are diagonal, so a
few dozen passes suffice where plain L-BFGS takes hundreds and stochastic steps never quite arrive.
All heads are evaluated by one matrix product a block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from scipy.linalg import eigh

from featx.selection.sweep import limited_threads
from featx.streaming.blocks import Array, Blocks, Rows
from featx.streaming.moments import Floats, Linear, Moments, Scaler, Statistics, scale_of


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
        "svm-large": lambda k: Loss(squared_hinge, 2.0, 1),
    }
)
"""Loss of a head's name and its number of classes."""


MOST_PASSES = 500
TOLERANCE, SEARCH_TOLERANCE = 1e-7, 1e-5
"""Expected gain of the next step, as a share of the mean loss, below which a descent ends: of the
head that is kept, and of those that only vote on its strength."""
SMALL_LOSS = 0.1
"""A mean loss below which that share is no longer of the loss: such classes are apart already."""
HISTORY = 10
STATE_BYTES = 512 << 20
"""Memory for the histories of all descents that run side by side."""


@dataclass(frozen=True)
class Wish:
    """A head to be found: C, and the fold that it may not see (None for all rows)."""

    C: float
    fold: int | None
    start: Linear | None = None


Axes = tuple[Floats, Floats]
"""Eigenvalues of the correlations of some rows, and their eigenvectors in columns."""
_STRETCHED = 2.0


@dataclass(frozen=True)
class DescentProblem:
    """The data that all descents share.

    Parameters
    ----------
    codes
        Class of each row.
    fold_of, weights
        As in `featx.streaming.moments.gather`.
    n_outputs
        1 for two classes, else one for each.
    """

    blocks: Blocks
    statistics: Statistics
    codes: Rows
    fold_of: Rows
    weights: Floats | None
    loss: Loss
    n_outputs: int
    scale: Scaler = field(init=False)
    _axes: dict[int | None, Axes] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        scale = scale_of(self.statistics.whole, self.statistics.shift)
        object.__setattr__(self, "scale", scale)

    def axes(self, fold: int | None, training: Moments, scale: Scaler) -> Axes:
        """Give the axes in which a fold's descent runs: those of all rows, where they will do.

        A feature that hardly varies without the rows that a fold holds out is stretched there, and
        in the axes of all rows a descent then takes hundreds of passes more.
        """
        stretched = float((self.scale.scale / scale.scale).max())
        key = fold if stretched > _STRETCHED else None
        if key not in self._axes:
            sums, by = (training, scale) if key is not None else (self.statistics.whole, self.scale)
            with limited_threads(1):  # more threads than cores, on a busy machine, cost seconds
                values, vectors = eigh(
                    _correlations(sums, by), overwrite_a=True, check_finite=False
                )
            self._axes[key] = np.maximum(values, 0.0), vectors
        return self._axes[key]


def _correlations(moments: Moments, scale: Scaler) -> Floats:
    middle = moments.first / moments.weight
    second = moments.second / moments.weight - np.outer(middle, middle)
    return np.asarray(second / np.outer(scale.scale, scale.scale))


def descend(problem: DescentProblem, wishes: Sequence[Wish]) -> list[Linear]:
    """Find the heads, as many side by side as memory allows.

    Returns
    -------
    heads : in the order of `wishes`; ``converged`` says whether `MOST_PASSES` were enough
    """
    one = 16 * HISTORY * (problem.blocks.n_features + 1) * problem.n_outputs
    at_once = max(1, STATE_BYTES // one)
    found = []
    for first in range(0, len(wishes), at_once):
        going = [_Fit(problem, wish) for wish in wishes[first : first + at_once]]
        _run(problem, going)
        found += [head.result() for head in going]
    return found


def _run(problem: DescentProblem, heads: list[_Fit]) -> None:
    for _ in range(MOST_PASSES):
        going = [head for head in heads if not head.descent.done]
        if not going:
            return
        values, slopes, totals = _evaluate(problem, going)
        for k, head in enumerate(going):
            head.tell(float(values[k]), slopes[:, k], totals[k])


def _evaluate(problem: DescentProblem, heads: list[_Fit]) -> tuple[Floats, Floats, Floats]:
    """Sum loss and gradients of some heads over all rows: one pass."""
    given = [head.on_shared_scale() for head in heads]
    coef = np.stack([c for c, _ in given], axis=1).astype(np.float32)
    offset = np.stack([b for _, b in given]).astype(np.float32)
    d, n_heads, k = coef.shape
    flat, folds = coef.reshape(d, n_heads * k), np.array([head.fold for head in heads])
    mean, scale = (v.astype(np.float32) for v in (problem.scale.mean, problem.scale.scale))

    def summed(rows: Rows, X: Array) -> tuple[Floats, Array, Floats]:
        Z = (X - mean) / scale
        decisions = (Z @ flat).reshape(len(rows), n_heads, k)
        decisions += offset
        values, slopes = problem.loss.of(decisions, problem.codes[rows])
        # A head's fold is held out, and so are its losses.
        seen = (problem.fold_of[rows, None] != folds).astype(np.float32)
        if problem.weights is not None:
            seen *= problem.weights[rows, None].astype(np.float32)
        slopes *= seen[:, :, None]
        total = slopes.sum(axis=0, dtype=np.float64)
        loss = np.einsum("ij,ij->j", values, seen, dtype=np.float64)
        return loss, Z.T @ slopes.reshape(len(rows), n_heads * k), total

    values, totals = np.zeros(n_heads), np.zeros((n_heads, k))
    slopes = np.zeros((d, n_heads * k))
    for loss, slope, total in problem.blocks.map(summed):
        values += loss
        slopes += slope
        totals += total
    return values, slopes.reshape(d, n_heads, k), totals


class _Fit:
    """One head on its way: its rows, its scale, its penalty, and its descent."""

    def __init__(self, problem: DescentProblem, wish: Wish) -> None:
        shift = problem.statistics.shift
        training = problem.statistics.training(wish.fold)
        self.problem, self.weight = problem, training.weight
        self.fold = -2 if wish.fold is None else wish.fold
        self.scale = scale_of(training, shift)
        values, self.vectors = problem.axes(wish.fold, training, self.scale)
        strength = 1 / (wish.C * training.weight)
        penalty = np.full((len(shift) + 1, 1), strength)
        penalty[-1] *= problem.loss.intercept_cost
        start = np.zeros((len(shift) + 1, problem.n_outputs))
        if wish.start is not None:
            start[:-1] = self.vectors.T @ wish.start.coef.T
            start[-1] = wish.start.intercept
        spectrum = np.append(values, 1.0)[:, None]
        self.penalty = penalty
        ends = TOLERANCE if wish.fold is None else SEARCH_TOLERANCE
        self.descent = Descent(start, spectrum, penalty, problem.loss.curvature, ends)

    def on_shared_scale(self) -> tuple[Floats, Floats]:
        """Give coefficients (n_features, n_outputs) and offset, for features scaled by all rows."""
        shared, own = self.problem.scale, self.scale
        coef, intercept = self._plain()
        moved = coef * (shared.scale / own.scale)[:, None]
        return moved, intercept + ((shared.mean - own.mean) / own.scale) @ coef

    def tell(self, value: float, slopes: Floats, total: Floats) -> None:
        """Take the sums of a pass."""
        shared, own, at = self.problem.scale, self.scale, self.descent.point
        own_slopes = slopes * (shared.scale / own.scale)[:, None]
        own_slopes += np.outer((shared.mean - own.mean) / own.scale, total)
        gradient = np.vstack([self.vectors.T @ own_slopes, total]) / self.weight
        penalised = self.penalty * at
        self.descent.tell(
            value / self.weight + 0.5 * float((penalised * at).sum()), gradient + penalised
        )

    def result(self) -> Linear:
        """Give the head where its descent ended."""
        descent = self.descent
        descent.stop()
        coef, intercept = self._plain()
        return Linear(coef.T.copy(), intercept, self.scale, descent.evaluations, descent.converged)

    def _plain(self) -> tuple[Floats, Floats]:
        point = self.descent.point
        return self.vectors @ point[:-1], point[-1]


class Descent:
    """L-BFGS that asks for one evaluation at a time, at `point`.

    Parameters
    ----------
    start
        Shape (n, n_outputs).
    spectrum, penalty
        Shape (n, 1): the diagonal of the loss's curvature up to a factor, and the penalty's.
    curvature
        First guess of that factor.
    ends
        Share of the value that a step must promise to be taken.
    """

    def __init__(
        self, start: Floats, spectrum: Floats, penalty: Floats, curvature: float, ends: float
    ) -> None:
        self.point, self.spectrum, self.penalty = start, spectrum, penalty
        self.curvature, self.ends = curvature, ends
        self.evaluations, self.done, self.converged = 0, False, False
        self._best: tuple[Floats, float, Floats] | None = None
        self._pairs: deque[tuple[Floats, Floats]] = deque(maxlen=HISTORY)
        self._step, self._direction = 1.0, np.zeros_like(start)

    def tell(self, value: float, gradient: Floats) -> None:
        """Take the value and gradient at `point`; moves `point` or ends the descent."""
        self.evaluations += 1
        if self._best is None or self._lower(value):
            self._accept(value, gradient)
        else:
            self._step *= 0.5
        base, height, slope = self._best or (self.point, value, gradient)
        gain = -0.5 * float((slope * self._direction).sum())
        # Below a thousandth of a step the sums' own rounding decides.
        self.done = gain <= self.ends * max(height, SMALL_LOSS) or self._step < 1e-3
        self.converged = self.done
        self.point = base if self.done else base + self._step * self._direction

    def stop(self) -> None:
        """Go back to the best point: the one that would be tried next may be far worse."""
        if self._best is not None:
            self.point = self._best[0]

    def _lower(self, value: float) -> bool:
        assert self._best is not None
        _, height, slope = self._best
        expected = self._step * float((slope * self._direction).sum())
        return value <= height + 1e-4 * expected + 1e-9 * abs(height)

    def _accept(self, value: float, gradient: Floats) -> None:
        if self._best is not None:
            moved, change = self.point - self._best[0], gradient - self._best[2]
            bent = float((moved * change).sum())
            if bent > 0:
                self._pairs.append((moved, change))
                of_loss = bent - float((self.penalty * moved**2).sum())
                width = float((self.spectrum * moved**2).sum())
                if of_loss > 0 and width > 0:
                    self.curvature = of_loss / width
        self._best = (self.point, value, gradient)
        self._direction, self._step = -self._solve(gradient), 1.0

    def _solve(self, gradient: Floats) -> Floats:
        """Apply the inverse curvature that the last steps let expect: the two-loop recursion."""
        found, used = gradient.copy(), []
        for moved, change in reversed(self._pairs):
            along = float((moved * found).sum()) / float((moved * change).sum())
            found -= along * change
            used.append(along)
        found /= self.curvature * self.spectrum + self.penalty + 1e-12
        for (moved, change), along in zip(self._pairs, reversed(used), strict=True):
            back = float((change * found).sum()) / float((moved * change).sum())
            found += (along - back) * moved
        return found
