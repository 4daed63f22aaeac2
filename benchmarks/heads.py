"""Heads beside what they are judged by.

The search over C beside scikit-learn's GridSearchCV (the same folds, values and answer), and
``auto`` beside the best single head on six data sets of different kinds.

python -m benchmarks.heads --rows 2000 --columns 1280
python -m benchmarks.heads auto --elpv data/elpv.h5 --digits data/digits.h5
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split

import featx
from featx.cache import open_cache
from featx.heads import AUTO, for_rows, get_head
from featx.selection import make_folds, search
from featx.selection.hyperparameters import SearchOptions, choose, compete

try:
    from sklearnex.linear_model import LogisticRegression
    from sklearnex.svm import SVC

    INTELEX = {"SVC": SVC, "LogisticRegression": LogisticRegression}
except ImportError:  # its row is left out
    INTELEX = {}

RESULTS = Path(__file__).parent / "results"
AUTO_RESULTS = RESULTS / "auto.json"
PHOTOGRAPHS = (
    *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "coffee.png"),
    *("coins.png", "grass.png", "gravel.png", "ihc.png", "moon.png", "retina.jpg", "rocket.jpg"),
)


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


def photographs(folder: Path, crops: int = 10, side: int = 40) -> Path:
    """Embed small crops of the photographs that come with scikit-image, a quarter a column."""
    import skimage
    from PIL import Image

    rng, rows = np.random.default_rng(0), ["path,label,quarter"]
    for name in PHOTOGRAPHS:
        whole = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
        for quarter, k in itertools.product(range(4), range(crops)):
            half = np.array(whole.size) // 2
            x, y = (half * (quarter % 2, quarter // 2) + rng.integers(0, half - side)).tolist()
            stem = Path(name).stem
            file = folder / f"{stem}-{quarter}-{k}.png"
            whole.crop((x, y, x + side, y + side)).save(file)
            rows.append(f"{file.name},{stem},{stem} {quarter}")
    (folder / "crops.csv").write_text("\n".join(rows))
    return Path(featx.extract(folder / "crops.csv", folder / "crops.h5").cache)


def kinds(asked: argparse.Namespace) -> dict[str, Callable[[], tuple[Any, Any, int]]]:
    """Name the data sets: features, labels and the number of training rows of each."""

    def read(path: str | Path, column: str | None = None) -> tuple[Any, Any]:
        with open_cache(path) as cache:
            y = cache.y if column is None else cache.columns[column]
            return np.asarray(cache.X), np.asarray(y).astype(str)

    def crops(column: str | None, train: int) -> tuple[Any, Any, int]:
        with tempfile.TemporaryDirectory() as folder:
            return (*read(photographs(Path(folder)), column), train)

    def rare() -> tuple[Any, Any, int]:
        X, y = read(asked.digits)
        counts = dict(zip(np.unique(y), (160, 120, 80, 60, 40, 30, 24, 20, 16, 12), strict=True))
        at = np.concatenate([np.flatnonzero(y == name)[:n] for name, n in counts.items()])
        return X[at], y[at], len(at) // 2

    return {
        "ELPV, two classes": lambda: (*read(asked.elpv), 200),
        "digits, ten classes": lambda: (*read(asked.digits), 200),
        "photographs, thirteen classes": lambda: crops(None, 200),
        "rare classes of digits": rare,
        "many classes: quarters of photographs": lambda: crops("quarter", 312),
        "few rows of digits": lambda: (*read(asked.digits), 50),
    }


def beside_the_best(X: Any, y: Any, n_train: int, splits: int, most: int = 600) -> dict[str, Any]:
    """Accuracy of ``auto`` and of single heads on the same splits.

    ``auto`` is what competes on the same folds, so each of its options is searched once; ``knn``
    is not among them.

    Returns
    -------
    figures : mean accuracies; ``difference`` of auto to the best single head in hindsight, and
        ``noise``, the half-width of its 95 % interval over the test rows of one split, by pairs
    """
    right: dict[str, list[Any]] = {}
    for seed in range(splits):
        train, rest = train_test_split(
            np.arange(len(y)), train_size=n_train, stratify=y, random_state=seed
        )
        test, folds = rest[:most], make_folds(y[train], folds=5, seed=seed)[0]
        how = SearchOptions(folds=folds, seed=seed)
        choices = {
            head.name: choose(head, X[train], y[train], how)
            for head in (*for_rows(AUTO, n_train).options, get_head("knn"))
        }
        rivals = [choice for name, choice in choices.items() if name != "knn"]
        won = compete(((0, choice) for choice in rivals), probabilities=False).head
        for name, choice in choices.items():
            said = choice.fitted(probabilities=False).estimator.predict(X[test])
            right.setdefault(name, []).append(said == y[test])
        right.setdefault("auto", []).append(right[won][-1])
    means = {name: float(np.mean(np.concatenate(rows))) for name, rows in right.items()}
    best = max((name for name in means if name != "auto"), key=lambda name: means[name])
    pairs = [a.astype(float) - b for a, b in zip(right["auto"], right[best], strict=True)]
    noise = 1.96 * float(np.sqrt(np.mean([row.var() / len(row) for row in pairs])))
    return {
        "rows": n_train,
        "test_rows": len(test),
        "classes": len(np.unique(y)),
        "splits": splits,
        "accuracy": means,
        "best": best,
        "difference": means["auto"] - means[best],
        "noise": noise,
        "kept": bool(means[best] - means["auto"] <= noise),
    }


def auto(asked: argparse.Namespace) -> None:
    """Print one JSON object a data set and keep them in benchmarks/results/auto.json."""
    known = kinds(asked)
    for name in asked.sets or known:
        found = {"data": name, **beside_the_best(*known[name](), splits=asked.splits)}
        print(json.dumps(found), flush=True)
        kept = json.loads(AUTO_RESULTS.read_text()) if AUTO_RESULTS.exists() else []
        kept = [one for one in kept if one["data"] != name] + [found]
        kept.sort(key=lambda one: list(known).index(one["data"]))
        AUTO_RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


def main() -> None:
    """Print one JSON object a head and keep them in benchmarks/results/heads.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", nargs="?", choices=["search", "auto"], default="search")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--columns", type=int, default=1280)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", help="features and labels of this cache in place of made ones")
    parser.add_argument("--heads", nargs="+", default=["svm", "svm-rbf", "logreg"])
    parser.add_argument("--elpv", default="data/elpv.h5", help="cache of ELPV, for auto")
    parser.add_argument("--digits", default="data/digits.h5", help="cache of digits, for auto")
    parser.add_argument("--splits", type=int, default=4)
    parser.add_argument("--sets", nargs="+", help="some of the data sets of auto")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    if asked.what == "auto":
        auto(asked)
        return
    X, y = _rows(asked)
    found = []
    for name in asked.heads:
        found.append(compare(name, X.astype(np.float32), y, asked.rounds))
        print(json.dumps(found[-1]), flush=True)
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"rows": X.shape[0], "columns": X.shape[1], "heads": found}, indent=1)
    (RESULTS / "heads.json").write_text(f"{text}\n")


if __name__ == "__main__":
    main()
