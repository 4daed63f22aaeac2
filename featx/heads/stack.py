"""The stack: several heads, each on every tap, and a logistic regression that weighs them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sklearn.compose import ColumnTransformer
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from featx.heads.head import Head

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
