"""The definition of a head: its pipeline, what there is to search, what is fixed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline

from featx.heads.norms import Then, make_norm

Task = Literal["classification", "regression"]
Grid = Mapping[str, Sequence[Any]]

LARGE_ROWS = 10_000
"""Training rows beyond which an n x n kernel matrix no longer pays."""


@dataclass(frozen=True)
class Head:
    """A classifier or regressor on features, with what there is to search.

    Parameters
    ----------
    name
        What the user types.
    task
        ``classification`` or ``regression``; classifiers also serve multi-label tables.
    when
        One line on when to use it.
    make
        ``make(seed, n_samples) -> Pipeline``, unfitted, last step called ``clf``.
    grid
        Parameter of the pipeline -> values, from the simplest to the most flexible model.
    large
        Takes the place of ``make`` beyond ``LARGE_ROWS`` training rows.
    params
        Fixed parameters, set after ``make``.
    parts
        The heads that a stack combines, each with its own grid; empty for every other head.
    options
        The heads that compete, where this one stands for whichever does best.
    then
        What follows each normalisation that is searched (`make_norm`). Not the columns where a
        kernel goes by distances: standardised, one that hardly varies would count like any other.
    calibrate
        Whether probabilities that the estimator gives itself are too sure to be shown as they are.
    against_rest
        Whether one class against the rest is tried beside pairs of classes, where there are three
        or more.
    many
        Name of the head that is fitted in place of this one beyond ``LARGE_ROWS`` rows and on
        features that are read in blocks; empty where this one is.

    Examples
    --------
    >>> from featx.heads import get_head
    >>> get_head("svm").build(seed=0)["clf"].kernel
    'linear'
    """

    name: str
    task: Task
    when: str
    make: Callable[[int, int], Pipeline] = field(repr=False)
    grid: Grid = field(default_factory=dict)
    large: Callable[[int, int], Pipeline] | None = field(default=None, repr=False)
    params: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[Head, ...] = field(default=(), repr=False)
    options: tuple[Head, ...] = field(default=(), repr=False)
    then: Then = "columns"
    calibrate: bool = False
    against_rest: bool = False
    many: str = ""

    def build(self, seed: int = 0, n_samples: int = 1000) -> Pipeline:
        """Make the unfitted pipeline for ``n_samples`` training rows."""
        use_large = self.large is not None and n_samples > LARGE_ROWS
        make = self.large if use_large and self.large is not None else self.make
        return make(seed, n_samples).set_params(**{k: _fresh(v) for k, v in self.params.items()})

    def with_grid(self, grid: Grid) -> Head:
        """Return this head with other values to search."""
        return dataclasses.replace(self, grid=dict(grid))

    def with_params(self, **params: Any) -> Head:
        """Return this head with parameters fixed, as ``clf__class_weight="balanced"``.

        A fixed parameter is no longer searched.
        """
        grid = {k: v for k, v in self.grid.items() if k not in params}
        return dataclasses.replace(self, grid=grid, params={**self.params, **params})

    def with_preparation(
        self, norms: Sequence[str] | None = None, pca: Sequence[float | None] = (None,)
    ) -> Head:
        """Return this head with normalisations and PCA in its search.

        Parameters
        ----------
        norms
            Names out of ``NORMS``; those of the head when None.
        pca
            Share of variance (below 1) or number of components to keep; None for no PCA.

        Raises
        ------
        FitError
            For an unknown normalisation.

        Examples
        --------
        >>> from featx.heads import get_head
        >>> sorted(get_head("svm").with_preparation(["standard", "l2"]).grid)
        ['clf__C', 'scale']
        """
        projections = ["passthrough" if k is None else PCA(k, random_state=0) for k in pca]
        steps: dict[str, list[Any]] = {"pca": projections}
        if norms is not None:
            steps["scale"] = [make_norm(name, self.then) for name in norms]
        prepared = self.with_params(**{k: v[0] for k, v in steps.items() if len(v) == 1})
        several = {k: v for k, v in steps.items() if len(v) > 1}
        return prepared.with_grid({**prepared.grid, **several})


def _fresh(value: Any) -> Any:
    return clone(value) if isinstance(value, BaseEstimator) else value
