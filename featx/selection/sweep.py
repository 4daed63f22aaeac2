"""Score a grid of parameters over folds, doing once what candidates share.

Within a fold the steps before ``clf`` are fitted once for all candidates that agree on them, and a
support vector machine sees one kernel matrix for every C. What is scored is what scikit-learn's
``GridSearchCV`` would score, to rounding.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import joblib
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgWarning
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from featx.heads import Grid, Head, for_rows
from featx.selection.candidates import grid_size
from featx.selection.fold import Array, Device, Fold, Scorer, sweep_fold
from featx.selection.multilabel import MOST_AGAINST_REST
from featx.selection.splits import Folds
from featx.typing import Estimator

Value = TypeVar("Value")
Found = TypeVar("Found")
Map = Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]

Step = Callable[[int], Any]
"""Called with the number of fits that have been made since the last call, from any thread."""


@dataclass(frozen=True)
class FitRun:
    """Where candidates are fitted, and who is told.

    Parameters
    ----------
    n_jobs
        Threads; all cores when None.
    device
        Where logistic regressions are fitted; the processor when None.
    step
        Told of each fit, if anybody wants to know.
    """

    n_jobs: int | None = None
    device: Device | None = None
    step: Step | None = None

    def tell(self, n: int) -> None:
        """Say that `n` fits have been made."""
        if self.step is not None:
            self.step(n)

    def counted(self, scorer: Scorer) -> Scorer:
        """Give a score that tells of each fit: every fit of a search is scored once."""
        if self.step is None:
            return scorer

        def score(*given: object) -> float:
            value = scorer(*given)
            self.tell(1)
            return value

        return score


def fits_of(
    head: Head,
    n_samples: int,
    n_folds: int,
    grid: Grid | Sequence[Grid] | None = None,
    n_classes: int = 2,
) -> int:
    """Count the fits of one search: those of every candidate on every fold, and of the winner.

    The winner is fitted on all rows, and on each fold once more for its probabilities.

    Parameters
    ----------
    n_samples
        Rows of the search.
    n_classes
        Of one label a row; a head that tries one class against the rest is fitted for both.

    Examples
    --------
    >>> from featx.heads import get_head
    >>> fits_of(get_head("svm").with_grid({"clf__C": [1, 10]}), 100, 5)
    16
    """
    rest = 2 < n_classes <= MOST_AGAINST_REST
    options = for_rows(head, n_samples).options
    if options:
        sizes = [grid_size(one.grid) * (1 + (rest and one.against_rest)) for one in options]
        return sum(n_folds * size for size in sizes) + n_folds + 1
    if head.parts:
        return sum(n_folds * grid_size(one.grid) + n_folds + 1 for one in head.parts)
    size = grid_size(head.grid if grid is None else grid)
    return n_folds * size * (1 + (rest and head.against_rest and grid is None)) + n_folds + 1


Params = Mapping[str, Any]

ANSWERED: tuple[tuple[str, type[Warning]], ...] = (
    # It is read from the fitted estimators, and said once for all folds.
    ("", ConvergenceWarning),
    ("", LinAlgWarning),
    # `few_samples` and `label_notes` say it of all rows.
    ("Only one sample available", UserWarning),
    ("Label .* is present in all training examples", UserWarning),
    # Few rows are few landmarks, too.
    ("n_components > n_samples", UserWarning),
    # Of scikit-learn's loops, where another thread has reset the filters.
    ("`sklearn.utils.parallel.delayed`", UserWarning),
)
"""How warnings of scikit-learn begin that tell the user nothing, or nothing more."""


@dataclass(frozen=True)
class Sweep:
    """Scores of every candidate on every fold."""

    scores: NDArray[np.float64]
    converged: NDArray[np.bool_]


def sweep(
    pipeline: Pipeline,
    candidates: Sequence[Params],
    data: tuple[Array, Array, Array | None],
    folds: Folds,
    scorer: Scorer,
    run: FitRun = FitRun(),
) -> Sweep:
    """Score candidates on folds.

    Parameters
    ----------
    pipeline
        Unfitted; its last step is called ``clf``.
    candidates
        Parameters of the pipeline.
    data
        Features, labels, and sample weights or None.
    scorer
        As ``sklearn.metrics.get_scorer`` returns.
    run
        Where they are fitted. Threads share the features, so nothing is copied.

    Returns
    -------
    sweep : scores of shape (n_candidates, n_folds)
    """
    counted = run.counted(scorer)
    with in_threads(run.n_jobs, len(folds)) as each:
        done = each(
            lambda fold: _score_fold(pipeline, candidates, data, fold, counted, run.device), folds
        )
    scores, converged = (np.stack(part, axis=1) for part in zip(*done, strict=True))
    return Sweep(scores, converged)


@contextlib.contextmanager
def in_threads(n_jobs: int | None, tasks: int) -> Iterator[Map]:
    """Share the cores among ``tasks`` threads, so that linear algebra does not oversubscribe them.

    Gives a function that runs another for each of some values, in these threads, and returns what
    they gave in order. What scikit-learn runs in parallel of its own uses as many.

    Warnings that the search answers for itself are silent inside; others come once, at the end.
    """
    cores = joblib.cpu_count()
    threads = max(1, min(n_jobs if n_jobs and n_jobs > 0 else cores, tasks))
    with (
        answered(),
        limited_threads(max(1, cores // threads)),
        joblib.parallel_config(backend="threading", n_jobs=threads),
    ):
        yield functools.partial(_each, threads)


def _each(threads: int, function: Callable[[Value], Found], values: Iterable[Value]) -> list[Found]:
    # joblib.Parallel looks every 10 ms whether a thread has ended: long beside a small fit.
    pool = ThreadPoolExecutor(threads)
    try:
        found = list(pool.map(function, values))
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C does not wait for the other fits
        raise
    pool.shutdown()
    return found


def limited_threads(most: int) -> contextlib.AbstractContextManager[object]:
    """Let linear algebra use so many threads at most."""
    # `threadpool_limits` would look through every library that is loaded each time.
    limited: contextlib.AbstractContextManager[object] = _libraries().limit(limits=most)
    return limited


@functools.cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


@contextlib.contextmanager
def answered() -> Iterator[None]:
    """Keep back the warnings in `ANSWERED`; others come once, at the end."""
    # Filters belong to the process, and scikit-learn resets them within its own loops: only a
    # record holds for all threads at any moment.
    with warnings.catch_warnings(record=True) as caught:
        for text, category in ANSWERED:
            warnings.filterwarnings("ignore", text, category)
        yield
    _pass_on(caught)


def _pass_on(caught: list[warnings.WarningMessage]) -> None:
    others = {(str(w.message), w.category, w.filename, w.lineno): w for w in caught}
    for (text, category, file, line), one in others.items():
        if not any(issubclass(category, c) and re.match(t, text) for t, c in ANSWERED):
            warnings.warn_explicit(one.message, category, file, line)


def _score_fold(
    pipeline: Pipeline,
    candidates: Sequence[Params],
    data: tuple[Array, Array, Array | None],
    rows: tuple[Array, Array],
    scorer: Scorer,
    device: Device | None,
) -> tuple[Array, Array]:
    X, y, weights = data
    train, held = rows
    scores, converged = np.empty(len(candidates)), np.ones(len(candidates), dtype=bool)
    for members in _alike(candidates):
        steps = pipeline[:-1]
        shared = candidates[members[0]]
        before = {k: v for k, v in shared.items() if k.split("__")[0] != "clf"}
        prefix = clone(steps) if len(steps) else None
        if prefix is not None and before:
            prefix.set_params(**{k: clone(v, safe=False) for k, v in before.items()})
        Z_train = X[train] if prefix is None else prefix.fit_transform(X[train], y[train])
        Z_held = X[held] if prefix is None else prefix.transform(X[held])
        kept = None if weights is None else weights[train]
        fold = Fold(Z_train, y[train], Z_held, y[held], kept)
        clfs = [_with(pipeline["clf"], candidates[i]) for i in members]
        for i, (score, done) in zip(members, sweep_fold(clfs, fold, scorer, device), strict=True):
            scores[i], converged[i] = score, done
    return scores, converged


def _alike(candidates: Sequence[Params]) -> list[list[int]]:
    """Gather the candidates that share every step before ``clf``, and the kind of that."""
    found: dict[str, list[int]] = {}
    for i, candidate in enumerate(candidates):
        before = {k: repr(v) for k, v in candidate.items() if not k.startswith("clf__")}
        found.setdefault(json.dumps(before, sort_keys=True), []).append(i)
    return list(found.values())


def _with(clf: Estimator, candidate: Params) -> Any:
    own = {k.removeprefix("clf__"): v for k, v in candidate.items() if k.startswith("clf__")}
    return clone(candidate.get("clf", clf)).set_params(**own)
