"""The stack: parts tuned on their own, weighed out of fold, over one tap or several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coloured import save_coloured
from sklearn.base import clone
from sklearn.datasets import make_classification

import featx
from featx.errors import FitError
from featx.heads import get_head, over_taps
from featx.selection import search


@pytest.fixture(scope="module")
def rows() -> tuple[Any, Any]:
    X, y = make_classification(150, 12, n_informative=6, flip_y=0.1, random_state=0)
    return X.astype(np.float32), np.array(["no", "yes"])[y]


def test_it_is_what_scikit_learn_fits_on_the_same_folds(rows: tuple[Any, Any]) -> None:
    X, y = rows
    order = np.random.default_rng(0).permutation(len(y))
    folds = [(np.setdiff1d(order, part), np.sort(part)) for part in np.array_split(order, 5)]
    head = over_taps(get_head("stack"), {"a": 5, "b": 7})
    found = search(head, X, y, folds=folds)
    assert set(found.best_params) == {
        f"clf__{tap}:{name}"
        for tap in "ab"
        for name in ("svm__clf__C", "svm-rbf__clf__C", "svm-rbf__scale", "logreg__clf__C")
    }
    plain = head.build(0, len(y)).set_params(**found.best_params, clf__cv=folds).fit(X, y)
    np.testing.assert_allclose(found.estimator.predict_proba(X), plain.predict_proba(X), atol=1e-6)
    again = clone(found.estimator).fit(X, y)
    assert again.score(X, y) > 0.8


def test_groups_are_kept_together_while_parts_are_weighed(rows: tuple[Any, Any]) -> None:
    # Twins of one group with the same label: a stack that tears them apart trusts a part that
    # only knows twins again, and thinks itself perfect.
    rng = np.random.default_rng(0)
    X = np.repeat(rng.normal(size=(40, 30)), 4, axis=0).astype(np.float32)
    y, groups = np.repeat(np.arange(40) % 2, 4), np.repeat(np.arange(40), 4)
    assert search("stack", X, y).best_score > 0.95
    assert search("stack", X, y, groups=groups).best_score < 0.75


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Path:
    folder = tmp_path_factory.mktemp("stacked")
    save_coloured(folder / "photos", 80)
    layers = {"layers": ("flatten", "grid")}
    featx.extract(folder / "photos", folder / "c.h5", **{**tiny, **layers})
    return folder


def test_all_taps_are_stacked_saved_and_said_again(folder: Path, tiny: dict[str, Any]) -> None:
    fitted = featx.fit(folder / "c.h5", "stack", out=folder / "s.featx")
    assert fitted.tap == "flatten,grid"
    assert fitted.test["accuracy"]["value"] > 0.9
    model = featx.load_model(folder / "s.featx")
    with featx.open_cache(folder / "c.h5") as cache:
        X = np.hstack([np.asarray(cache.tap(name)) for name in cache.taps])
        np.testing.assert_array_equal(np.asarray(cache.tap("flatten,grid")), X)
        np.testing.assert_array_equal(
            cache.tap("grid,flatten")[[5, 3], :3], cache.tap("grid")[[5, 3]]
        )
        scores = model.score(X)
        said = model.predict(cache).to_frame()
    assert said["label"].tolist() == scores.predicted.tolist()
    fresh = model.predict(folder / "photos", progress=False, backbone=tiny["backbone"]).to_frame()
    assert fresh["label"].tolist() == said["label"].tolist()


def test_any_head_takes_several_taps_and_an_unknown_one_is_named(folder: Path) -> None:
    assert featx.fit(folder / "c.h5", "svm", tap="grid,flatten").tap == "grid,flatten"
    with pytest.raises(FitError, match="no tap 'gird'; did you mean grid"):
        featx.fit(folder / "c.h5", "svm", tap="flatten,gird")
    with pytest.raises(FitError, match="'grid' is named twice"):
        featx.fit(folder / "c.h5", "svm", tap="grid,grid")
