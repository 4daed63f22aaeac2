"""Ridge and LDA from sums: every strength from one eigendecomposition, exact to rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from featx.streaming.moments import Floats, Moments, Scale, scale_of


@dataclass(frozen=True)
class Linear:
    """A linear head on standardised features: ``((x - mean) / scale) @ coef.T + intercept``.

    Parameters
    ----------
    coef
        Shape (n_outputs, n_features); one output for two classes, as scikit-learn has it.
    intercept
        Shape (n_outputs,).
    scale
        How features are standardised first.
    evaluations
        Passes that its descent took; 0 for what has a closed form.
    converged
        Whether these were enough.
    """

    coef: Floats
    intercept: Floats
    scale: Scale
    evaluations: int = 0
    converged: bool = True


def ridge(moments: Moments, shift: Floats, alphas: Sequence[float], classes: bool) -> list[Linear]:
    """Solve ridge regression for every alpha.

    Parameters
    ----------
    classes
        Whether the targets are classes (one column each), which become -1 and 1.

    Returns
    -------
    heads : one for each alpha, equal to scikit-learn's Ridge or RidgeClassifier
    """
    scale = scale_of(moments, shift)
    middle = moments.first / moments.weight
    target = moments.target / moments.weight
    second = moments.second - moments.weight * np.outer(middle, middle)
    cross = moments.cross - np.outer(middle, moments.target)
    if classes:
        # 2 t - 1 for the t of 0 and 1 that were summed; one output is enough for two classes.
        cross, target = 2 * cross, 2 * target - 1
        if len(target) == 2:
            cross, target = cross[:, 1:], target[1:]
    values, vectors = eigh(
        second / np.outer(scale.scale, scale.scale), overwrite_a=True, check_finite=False
    )
    values = np.maximum(values, 0.0)
    rotated = vectors.T @ (cross / scale.scale[:, None])
    # Row weights move the mean of what the scaler, which knows none, has centred.
    centre = (shift + middle - scale.mean) / scale.scale
    found = []
    for alpha in alphas:
        coef = (vectors @ _divided(rotated, values + alpha)).T
        found.append(Linear(coef, target - coef @ centre, scale))
    return found


def lda(moments: Moments, shift: Floats, shrinkages: Sequence[float]) -> list[Linear]:
    """Solve linear discriminant analysis for every shrinkage.

    Returns
    -------
    heads : one for each shrinkage, equal to scikit-learn's LinearDiscriminantAnalysis (lsqr, eigen)
    """
    scale = scale_of(moments, shift)
    means = (moments.cross / moments.target).T
    within = moments.second - (means.T * moments.target) @ means
    within /= moments.weight * np.outer(scale.scale, scale.scale)
    centred = (means + shift - scale.mean) / scale.scale
    values, vectors = eigh(within, overwrite_a=True, check_finite=False)
    values = np.maximum(values, 0.0)
    rotated = vectors.T @ centred.T
    spread, priors = float(values.mean()), moments.target / moments.weight
    found = []
    for shrinkage in shrinkages:
        shrunk = (1 - shrinkage) * values + shrinkage * spread
        coef = (vectors @ _divided(rotated, shrunk)).T
        intercept = -0.5 * np.einsum("ij,ij->i", centred, coef) + np.log(priors)
        if len(priors) == 2:
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        found.append(Linear(coef, intercept, scale))
    return found


def _divided(rows: Floats, by: Floats) -> Floats:
    """Divide rows; directions in which nothing varies get zero, as in least squares."""
    enough = by > by.max() * len(by) * np.finfo(np.float64).eps if len(by) else by > 0
    return np.where(enough[:, None], rows / np.where(enough, by, 1.0)[:, None], 0.0)
