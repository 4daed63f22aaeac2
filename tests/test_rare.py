"""Classes with too few rows: named, left out, or fitted all the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import featx
from featx.errors import FitError


def cache_of(folder: Path, counts: dict[str, int]) -> Path:
    rng = np.random.default_rng(0)
    labels = [name for name, n in counts.items() for _ in range(n)]
    centres = {name: 6 * rng.normal(size=8) for name in counts}
    X = np.array([centres[name] + rng.normal(size=8) for name in labels])
    featx.write_cache(folder / "c.h5", X, labels=labels)
    return folder / "c.h5"


RARE = {"a": 12, "b": 12, "c": 12, "r0": 1, "r1": 1, "r2": 2, "r3": 4}


@pytest.mark.parametrize(("head", "rare"), [("logreg", 4), ("auto", 3)])
def test_all_classes_that_are_too_small_are_named(tmp_path: Path, head: str, rare: int) -> None:
    path = cache_of(tmp_path, RARE)
    with pytest.raises(FitError, match=rf"^{rare} classes have too few rows.*--rare drop") as said:
        featx.fit(path, head)
    for name in ("r0 (1)", "r1 (1)", "r2 (2)", "r3 (4)")[:rare]:
        assert name in str(said.value)


def test_hundreds_of_classes_that_are_too_small_are_counted(tmp_path: Path) -> None:
    counts = {"a": 12, "b": 12, **{f"{'r' * 1000}{k:03d}": 1 for k in range(300)}}
    path = cache_of(tmp_path, counts)
    with pytest.raises(FitError, match=r"^300 classes have too few rows .* and 295 others; ") as no:
        featx.fit(path, "logreg")
    assert len(str(no.value)) < 700
    said = {one["code"]: one["message"] for one in featx.fit(path, "logreg", rare="drop").warnings}
    assert said["rare-classes-dropped"].startswith("300 classes with too few rows are left out: ")
    assert max(map(len, said.values())) < 700


def test_rare_classes_are_dropped_where_asked(tmp_path: Path) -> None:
    found = featx.fit(cache_of(tmp_path, RARE), "logreg", rare="drop")
    assert found.classes == ["a", "b", "c"]
    assert found.excluded == {"rare class": 8}
    assert found.trained_on == 36
    note = next(one for one in found.warnings if one["code"] == "rare-classes-dropped")
    assert "r0 (1), r1 (1), r2 (2), r3 (4)" in note["message"]


@pytest.mark.parametrize("head", ["logreg", "svm", "ridge", "auto"])
def test_thirty_classes_of_two_can_be_fitted(tmp_path: Path, head: str) -> None:
    found = featx.fit(cache_of(tmp_path, {f"c{k:02d}": 2 for k in range(30)}), head)
    assert (found.n_train, found.n_test, found.trained_on) == (30, 30, 60)
    assert len(found.classes) == 30
    assert found.accuracy.value > 0.5  # by chance one in thirty
    assert "few-rows-per-class" in [one["code"] for one in found.warnings]


def test_small_classes_have_as_many_folds_as_rows(tmp_path: Path) -> None:
    found = featx.fit(cache_of(tmp_path, {f"c{k}": 4 for k in range(6)}), "logreg")
    assert (found.n_train, found.n_test, found.cv["folds"]) == (18, 6, 3)


def test_single_rows_are_refused_or_dropped(tmp_path: Path) -> None:
    counts = {**{f"c{k}": 2 for k in range(8)}, "one": 1}
    path = cache_of(tmp_path, counts)
    with pytest.raises(FitError, match=r"1 class has too few rows .* one \(1\)"):
        featx.fit(path, "logreg")
    assert len(featx.fit(path, "logreg", rare="drop").classes) == 8
