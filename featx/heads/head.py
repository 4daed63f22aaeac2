"""The definition of a head: its pipeline and row norms, what there is to search, what is fixed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
from sklearn import get_config
from sklearn.base import BaseEstimator, clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler

from featx.errors import FitError, nearest


def _signed_power() -> Any:
    # The cube root keeps the sign, and skops trusts a numpy ufunc.
    return FunctionTransformer(np.cbrt)


def _standard_power() -> Any:
    # Steps of other names than `make_pipeline` gives tell it from what follows a signed power.
    return Pipeline([("power", _signed_power()), ("standard", StandardScaler())])


NORMS: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {
        "standard": StandardScaler,
        "l2": Normalizer,
        "signed-power": _signed_power,
        "signed-power-standard": _standard_power,
        "none": lambda: "passthrough",
    }
)
"""Operations on each value, row or column; ``none`` does nothing.

``signed-power-standard`` standardises the columns of cube roots, for a head that standardises
nothing by itself.
"""

Then = Literal["columns", "rows", "nothing"]


def make_norm(name: str, then: Then = "columns") -> Any:
    """Make the unfitted ``scale`` step of this name.

    Parameters
    ----------
    then
        What follows. ``columns`` are standardised after ``l2`` and ``signed-power``, so that one
        grid of C fits every normalisation of a linear head; ``rows`` get length one, so that one
        width of a kernel does; or ``nothing``.

    Raises
    ------
    FitError
        For a name that is not in ``NORMS``.

    Examples
    --------
    >>> make_norm("l2", then="nothing")
    Normalizer()
    """
    if name not in NORMS:
        known = ", ".join(NORMS)
        hint = nearest(name, NORMS)
        raise FitError(f"no normalisation is called {name!r}{hint} (there are {known})")
    if then == "columns" and name in ("l2", "signed-power"):
        return make_pipeline(NORMS[name](), StandardScaler())
    if then == "rows" and name != "l2":
        return Normalizer() if name == "none" else make_pipeline(NORMS[name](), Normalizer())
    return NORMS[name]()


def norm_name(step: object) -> str | None:
    """Name a ``scale`` step that `make_norm` makes; None for any other.

    Examples
    --------
    >>> norm_name(make_norm("l2")), norm_name(make_norm("l2", then="nothing"))
    ('l2', 'l2')
    """
    return _names(get_config()["print_changed_only"]).get(repr(step))


@cache
def _names(changed_only: bool) -> dict[str, str]:
    """The name of each normalisation by how scikit-learn writes it; that takes milliseconds each.

    Parameters
    ----------
    changed_only
        scikit-learn's setting, on which the text depends.
    """
    made = [(name, make_norm(name, then)) for name in NORMS for then in get_args(Then)]
    return {repr(step): name for name, step in reversed(made)}


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

    def with_params(self, **params: object) -> Head:
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


def _fresh(value: object) -> Any:
    return clone(value) if isinstance(value, BaseEstimator) else value


Part = tuple[Head, Mapping[str, Any]]


def stack_of(parts: Sequence[Part]) -> Head:
    """Make the head that combines heads, given with the parameters they have without a search."""
    return Head(
        "stack",
        "classification",
        "the last per cent: svm, svm-rbf and logreg on every tap, combined; several times slower",
        partial(_make, parts, {}),
        parts=tuple(head for head, _ in parts),
    )


def over_taps(head: Head, widths: Mapping[str, int]) -> Head:
    """Give a stack one set of its heads for each tap; another head takes all columns as they are.

    Parameters
    ----------
    widths
        Number of columns of each tap, in the order in which they stand side by side.

    Examples
    --------
    >>> from featx.heads import get_head
    >>> stack = over_taps(get_head("stack"), {"a": 3, "b": 2})
    >>> [name for name, _ in stack.build()["clf"].estimators][:4]
    ['a:svm', 'a:svm-rbf', 'a:logreg', 'b:svm']
    """
    if not head.parts or len(widths) < 2:
        return head
    assert isinstance(head.make, partial)
    parts, _ = head.make.args
    return dataclasses.replace(
        head, make=partial(_make, parts, dict(widths)), parts=head.parts * len(widths)
    )


def _make(parts: Sequence[Part], widths: Mapping[str, int], seed: int, n_samples: int) -> Pipeline:
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    final = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    named, start = [], 0
    for tap, width in (widths or {"": 0}).items():
        columns = slice(start, start + width) if widths else None
        start += width
        for head, params in parts:
            name = f"{tap}:{head.name}" if widths else head.name
            one = head.build(seed, n_samples).set_params(**params)
            # Two underscores would be read as the way to a parameter.
            named.append((name.replace("__", "_"), _on(columns, one)))
    return Pipeline([("clf", StackingClassifier(named, final_estimator=final, cv=folds))])


def _on(columns: slice | None, pipeline: Pipeline) -> Pipeline:
    """Let a head see some columns only; steps that do nothing are dropped."""
    steps = [step for step in pipeline.steps if step[1] != "passthrough"]
    if columns is None:
        return Pipeline(steps)
    return Pipeline([("tap", ColumnTransformer([("tap", "passthrough", columns)])), *steps])
