"""The search over C beside scikit-learn's GridSearchCV: the same folds, values and answer.

python -m benchmarks.heads --rows 2000 --columns 1280
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from featx.cache import open_cache
from featx.heads import get_head
from featx.selection import search

try:
    from sklearnex.linear_model import LogisticRegression
    from sklearnex.svm import SVC

    INTELEX = {"SVC": SVC, "LogisticRegression": LogisticRegression}
except ImportError:  # its row is left out
    INTELEX = {}

RESULTS = Path(__file__).parent / "results"


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and answer of a call."""
    start = time.perf_counter()
    found = function()
    return time.perf_counter() - start, found


def compare(name: str, X: Any, y: Any, rounds: int) -> dict[str, Any]:
    """Median seconds of both, in turn; whether both chose the same C."""
    folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(X, y))
    head = get_head(name)

    def ours() -> Any:
        return search(name, X, y, folds=folds, probabilities=False)

    def theirs() -> Any:
        pipeline = head.build(0, len(y))
        grid = GridSearchCV(pipeline, dict(head.grid), cv=folds, scoring="accuracy", n_jobs=-1)
        return grid.fit(X, y)

    def with_intelex() -> Any:
        pipeline = head.build(0, len(y))
        plain = pipeline["clf"]
        pipeline.set_params(clf=INTELEX[type(plain).__name__](**plain.get_params()))
        grid = GridSearchCV(pipeline, dict(head.grid), cv=folds, scoring="accuracy")
        return grid.fit(X, y)  # it uses all cores by itself

    runs = {"featx": ours, "GridSearchCV": theirs}
    if INTELEX:
        runs["GridSearchCV, scikit-learn-intelex"] = with_intelex
    seconds: dict[str, list[float]] = {label: [] for label in runs}
    for _ in range(rounds):
        for label, run in runs.items():
            spent, answer = timed(run)
            seconds[label].append(spent)
            if label == "featx":
                chosen = answer.best_params
            elif label == "GridSearchCV":
                found = answer
    medians = {label: float(np.median(values)) for label, values in seconds.items()}
    return {
        "head": name,
        "seconds": medians,
        "ratio": medians["GridSearchCV"] / medians["featx"],
        "same_choice": all(found.best_params_[k] == v for k, v in chosen.items()),
    }


def _rows(asked: argparse.Namespace) -> tuple[Any, Any]:
    if asked.cache:
        with open_cache(asked.cache) as cache:
            return np.asarray(cache.X), np.asarray(cache.y)
    return make_classification(
        asked.rows, asked.columns, n_informative=60, n_redundant=200, flip_y=0.1, random_state=0
    )


def main() -> None:
    """Print one JSON object a head and keep them in benchmarks/results/heads.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--columns", type=int, default=1280)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", help="features and labels of this cache in place of made ones")
    parser.add_argument("--heads", nargs="+", default=["svm", "svm-rbf", "logreg"])
    asked = parser.parse_args()
    X, y = _rows(asked)
    warnings.simplefilter("ignore")
    found = []
    for name in asked.heads:
        found.append(compare(name, X.astype(np.float32), y, asked.rounds))
        print(json.dumps(found[-1]), flush=True)
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"rows": X.shape[0], "columns": X.shape[1], "heads": found}, indent=1)
    (RESULTS / "heads.json").write_text(f"{text}\n")


if __name__ == "__main__":
    main()
