"""``--head auto``: heads compete inside the folds, and the choice is part of what is measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import SVC

import featx
from featx.errors import FitError
from featx.fitting.contenders import find_contenders
from featx.fitting.options import FitOptions, settle
from featx.fitting.samples import Samples
from featx.heads import AUTO, for_rows, get_head
from featx.selection import make_folds, search
from featx.selection.calibration import (
    SCALES,
    best_scale,
    bounded,
    calibrated,
    held_probabilities,
    probabilities_of,
    scales_for,
)
from featx.selection.fold import Fold, in_few_columns
from featx.streaming import plan_memory

NAMES = ["svm", "logreg", "ridge", "svm-rbf"]


def blobs(n: int = 90, d: int = 12, classes: int = 3, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    X = rng.normal(size=(classes, d))[y] + rng.normal(size=(n, d))
    return X.astype(np.float32), np.array([f"class {k}" for k in y])


def rings(n: int = 100, seed: int = 0) -> tuple[Any, Any]:
    """Two classes that no straight line tells apart."""
    rng = np.random.default_rng(seed)
    angle, y = rng.uniform(0, 6.28, n), np.arange(n) % 2
    radius = 1 + 1.5 * y + 0.15 * rng.normal(size=n)
    X = np.c_[radius * np.cos(angle), radius * np.sin(angle)]
    return X.astype(np.float32), np.where(y, "outer", "inner")


def cache_of(folder: Path, X: Any, y: Any, name: str = "c.h5", **more: Any) -> Path:
    return Path(featx.write_cache(folder / name, X, labels=y, encoder="test", **more))


def test_the_best_on_the_same_folds_wins_and_is_what_it_would_be_alone() -> None:
    X, y = rings()
    found = search("auto", X, y)
    assert found.head == "svm-rbf"
    assert [option["head"] for option in found.options] == NAMES
    for option in found.options:
        alone = search(option["head"], X, y)
        assert option["score"] == pytest.approx(alone.best_score)
    best = max(found.options, key=lambda option: option["score"])
    assert (best["head"], best["params"]) == ("svm-rbf", found.chosen["params"])
    np.testing.assert_array_equal(
        found.estimator.predict(X), search("svm-rbf", X, y).estimator.predict(X)
    )


def test_the_first_of_equals_wins_so_that_a_choice_is_repeatable() -> None:
    X, y = blobs()
    X = X + 20 * (np.arange(3)[:, None] == np.unique(y, return_inverse=True)[1]).T @ np.eye(3, 12)
    found = search("auto", X, y)
    assert {round(option["score"], 9) for option in found.options} == {1.0}
    assert found.head == "svm"


def test_rows_alone_decide_who_competes_and_what_streams() -> None:
    assert [h.name for h in for_rows(AUTO, 10_000).options] == NAMES
    assert [h.name for h in for_rows(AUTO, 10_001).options] == ["svm-large", *NAMES[1:3]]
    for free in (1, 1 << 40):
        assert not plan_memory(AUTO, "classification", 9_000, 1280, free=free).streamed
        assert plan_memory(AUTO, "classification", 200_000, 1280, free=free).streamed


@pytest.mark.parametrize(
    ("n", "options", "expected"),
    [
        (300, {}, (True, 1)),
        (2000, {}, (False, 5)),
        (5000, {}, (False, 3)),
        (300, {"repeats": 2}, (False, 2)),
        (300, {"nested": False}, (False, 1)),
        (300, {"split": 0.2}, (False, 1)),
        (300, {"fit_on": "train"}, (False, 5)),
        (300, {"abstain": 0.1}, (False, 1)),
    ],
)
def test_how_it_is_measured_depends_on_the_number_of_rows(
    n: int, options: dict[str, Any], expected: tuple[bool, int]
) -> None:
    y = np.arange(n).astype(str)
    y[:] = np.where(np.arange(n) % 2, "a", "b")
    samples = Samples(
        np.arange(n), y, "classification", "t", np.arange(n).astype(str), np.zeros(n, "S1")
    )
    found = settle(FitOptions(**options), AUTO, samples)
    assert (found.nested, found.repeats) == expected
    plain = settle(FitOptions(), get_head("svm"), samples)
    assert (plain.nested, plain.repeats) == (False, 1)


def test_the_choice_is_nested_recorded_and_the_same_again(tmp_path: Path) -> None:
    path = cache_of(tmp_path, *rings())
    found = featx.fit(path, out=tmp_path / "m.featx", folds=3)
    assert found.head == "svm-rbf"
    assert found.measured_by == "nested: 3 outer folds"
    assert (found.n_test, found.trained_on, len(found.test_ids)) == (100, 100, 100)
    assert [o["head"] for o in found.head_options] == NAMES
    assert [o["chosen"] for o in found.head_options] == [False, False, False, True]
    assert sum(o["won"] for o in found.head_options) == 3
    assert found.accuracy.value > 0.9
    again = featx.fit(path, folds=3)
    assert again.head_options == found.head_options
    assert again.test == found.test
    model = featx.load_model(tmp_path / "m.featx")
    assert model.figures["head_options"] == found.to_dict()["head_options"]
    assert model.meta["head"] == "svm-rbf"


def test_labels_by_chance_score_like_chance_although_four_heads_were_tried(tmp_path: Path) -> None:
    X, _ = blobs(80, 40)
    y = np.random.default_rng(1).permutation(np.repeat(["a", "b"], 40))
    accuracy = featx.fit(cache_of(tmp_path, X, y), folds=3).accuracy
    assert accuracy.low < 0.5 < accuracy.high


@pytest.mark.slow
def test_taps_compete_too(tmp_path: Path) -> None:
    X, y = blobs()
    first = cache_of(tmp_path, np.random.default_rng(2).normal(size=(90, 12)), y, "noise.h5")
    second = cache_of(tmp_path, X, y, "good.h5")
    with featx.open_cache(first) as one, featx.open_cache(second) as two:
        from featx.fitting.training import fit_caches

        found = fit_caches(
            [one, two], get_head("auto"), FitOptions(folds=3), out=tmp_path / "m.featx"
        )
    assert found.cache == str(second)
    assert len(found.head_options) == 8
    assert {o["cache"] for o in found.head_options if o["won"]} == {str(second)}
    model = featx.load_model(tmp_path / "m.featx")
    with featx.open_cache(second) as cache:
        assert (np.array(model.predict(cache).to_frame()["label"]) == y).mean() > 0.9


def test_caches_in_another_order_are_brought_into_one(tmp_path: Path) -> None:
    X, y = blobs()
    ids, other = [f"r{k}" for k in range(90)], np.random.default_rng(0).permutation(90)
    one = cache_of(tmp_path, X, y, "one.h5", ids=ids)
    two = cache_of(tmp_path, X[other], y[other], "two.h5", ids=[ids[k] for k in other])
    with featx.open_cache(one) as a, featx.open_cache(two) as b:
        found = find_contenders([a, b], AUTO, FitOptions())
        rows = np.arange(90)
        np.testing.assert_array_equal(found[0].samples.take(rows), found[1].samples.take(rows))
    wrong = cache_of(tmp_path, X, y[::-1], "wrong.h5", ids=ids)
    with (
        featx.open_cache(one) as a,
        featx.open_cache(wrong) as b,
        pytest.raises(FitError, match="call 'r0' 'class 0' and 'class 2'"),
    ):
        find_contenders([a, b], AUTO, FitOptions())


def test_few_rows_of_a_class_take_fewer_folds_or_are_refused(tmp_path: Path) -> None:
    X, y = blobs(33)
    few = np.r_[np.flatnonzero(y != "class 2"), np.flatnonzero(y == "class 2")[:3]]
    found = featx.fit(cache_of(tmp_path, X[few], y[few]))
    assert found.measured_by == "nested: 3 outer folds"
    assert "fewer-folds" in [w["code"] for w in found.warnings]
    with pytest.raises(FitError, match=r"too few rows .* \(3 rows\): class 2 \(2\); add images"):
        featx.fit(cache_of(tmp_path, X[few[:-1]], y[few[:-1]], "two.h5"))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_scale_of_probabilities_is_the_one_with_the_least_loss(classes: int) -> None:
    """True probabilities are known, and decisions are too sharp by three: one scale mends that."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1500, classes)) * 2
    true = probabilities_of(logits)
    codes = np.array([rng.choice(classes, p=row) for row in true])
    y = np.array(["a", "b", "c"])[codes]
    decisions = 3 * (logits[:, 1] - logits[:, 0] if classes == 2 else logits)
    folds = list(StratifiedKFold(5).split(logits, y))
    scale, losses = best_scale(decisions, y, folds, SCALES)
    assert losses[scale] == min(losses.values()) < losses["own"]
    assert best_scale(decisions / 3, y, folds, SCALES)[0] == "own"
    assert losses["own"] > losses["temperature"] + 0.1
    assert losses["temperature"] == pytest.approx(log_loss(codes, true), abs=0.02)


def test_a_head_that_competes_has_the_scale_that_suits_its_held_out_decisions() -> None:
    """Hardly regularised, it is far too sure on rows that it has not seen."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 30)).astype(np.float32)
    y = np.where(X[:, 0] + rng.normal(size=120) > 0, "a", "b")
    sharp = get_head("logreg").with_grid({"clf__C": [100.0]})
    found = search(replace(AUTO, options=(sharp,)), X, y, folds=3, seed=4)
    folds, _ = make_folds(y, folds=3, seed=4)
    decisions = cross_val_predict(found.estimator.estimator, X, y, cv=folds,
                                  method="decision_function")  # fmt: skip
    scale, losses = best_scale(decisions, y, folds, scales_for(True, 2, True))
    assert found.scale == scale != "own"
    assert losses[scale] < losses["own"] - 0.1
    made, _ = calibrated(found.estimator.estimator, decisions, y, 3, scale)
    np.testing.assert_allclose(found.estimator.predict_proba(X), made.predict_proba(X), atol=1e-3)


def test_a_temperature_is_what_scikit_learn_fits(tmp_path: Path) -> None:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.linear_model import RidgeClassifier

    X, y = blobs(120)
    folds = list(StratifiedKFold(4).split(X, y))
    whole = CalibratedClassifierCV(
        RidgeClassifier(), method="temperature", ensemble=False, cv=folds
    ).fit(X, y)
    decisions = cross_val_predict(RidgeClassifier(), X, y, cv=folds, method="decision_function")
    made, _ = calibrated(RidgeClassifier().fit(X, y), decisions, y, 4, "temperature")
    np.testing.assert_allclose(made.predict_proba(X), whole.predict_proba(X), atol=2e-3)


def test_fewer_columns_leave_products_as_they_are() -> None:
    rng = np.random.default_rng(0)
    X, held = rng.normal(size=(20, 300)), rng.normal(size=(7, 300))
    fold = Fold(X, np.arange(20), held, np.arange(7), None)
    narrow = in_few_columns(fold)
    assert narrow.X_train.shape[1] <= 20
    np.testing.assert_allclose(narrow.X_train @ narrow.X_train.T, X @ X.T, atol=1e-8)
    np.testing.assert_allclose(narrow.X_held @ narrow.X_train.T, held @ X.T, atol=1e-8)
    wide = Fold(X.T, np.arange(300), held.T, np.arange(300), None)
    assert in_few_columns(wide) is wide


@pytest.mark.parametrize("scale", ["temperature", "sigmoid"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", ["svm", "svm-rbf", "logreg", "ridge", "sgd", "knn"])
def test_a_scale_is_saved_and_exported(name: str, classes: int, scale: Any) -> None:
    import torch

    from featx.exporting.heads import head_module
    from featx.model.modelfile import dump_head, load_head

    X, y = blobs(90, 6, classes)
    fitted = get_head(name).build().fit(X, y)
    probable = name == "knn"
    said = fitted.predict_proba(X) if probable else fitted.decision_function(X)
    if probable and classes == 2:
        said = said[:, 1]
    made, table = calibrated(fitted, said, y, 3, scale, probable=probable)
    np.testing.assert_allclose(made.predict_proba(X), table, atol=1e-12)
    again = load_head(dump_head(made), "here")
    np.testing.assert_array_equal(again.predict_proba(X), made.predict_proba(X))
    module = head_module(again, sorted(set(y.tolist())))
    exported = module(torch.tensor(X)).detach().numpy()
    np.testing.assert_allclose(exported, made.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", ["knn", "sgd"])
def test_heads_that_are_too_sure_are_calibrated(name: str, classes: int) -> None:
    X, y = blobs(400, 30, classes)
    X = X + 3 * np.random.default_rng(1).normal(size=X.shape).astype(np.float32)
    narrow = {"knn": {"clf__n_neighbors": [3]}, "sgd": {"clf__alpha": [1e-7]}}[name]
    found = search(name, X[:300], y[:300], grid=narrow)
    plain = search(name, X[:300], y[:300], grid=narrow, probabilities=False)
    assert found.calibrated
    assert found.scale in ("temperature", "sigmoid")
    assert (plain.calibrated, plain.scale) == (False, "own")
    losses = [log_loss(y[300:], one.estimator.predict_proba(X[300:])) for one in (found, plain)]
    assert losses[0] < min(losses[1] / 2, np.log(classes) + 0.05)


def test_neighbours_are_calibrated_with_groups_kept() -> None:
    """Every group is five copies of one picture whose label is a coin's."""
    rng = np.random.default_rng(0)
    X = np.repeat(rng.normal(size=(60, 8)), 5, axis=0).astype(np.float32)
    y, groups = np.repeat(rng.permutation(60) % 2, 5), np.repeat(np.arange(60), 5)
    grid = {"clf__n_neighbors": [3]}
    kept = search("knn", X, y, groups=groups, grid=grid).estimator.predict_proba(X)
    mixed = search("knn", X, y, grid=grid).estimator.predict_proba(X)
    assert kept.max() < 0.75 < 0.95 < np.median(mixed.max(axis=1))


def test_neighbours_that_cannot_be_calibrated_say_so() -> None:
    X, y = blobs()
    labels = np.c_[y == "class 0", y == "class 1"].astype(int)
    several = search("knn", X, labels, grid={"clf__n_neighbors": [3]})
    one = np.arange(3)
    single = search("knn", X[:3], y[:3], folds=[(one, one)], grid={"clf__n_neighbors": [1]})
    for found in (several, single):
        assert not found.calibrated
        assert "not-calibrated" in [note["code"] for note in found.warnings]


def test_the_scale_of_one_head_is_chosen_among_several_classes_alone() -> None:
    X, y = blobs(150)
    found = search("svm", X, y)
    decisions = cross_val_predict(
        found.estimator.estimator, X, y, cv=make_folds(y)[0], method="decision_function"
    )
    best, losses = best_scale(decisions, y, make_folds(y)[0], SCALES[1:])
    assert found.scale == best
    assert set(losses) == {"temperature", "sigmoid"}
    two = y != "class 2"
    assert search("svm", X[two], y[two]).scale == "sigmoid"


def test_one_class_against_the_rest_competes_with_pairs_and_is_named(tmp_path: Path) -> None:
    import torch

    from featx.exporting.heads import head_module
    from featx.heads.linear import decisions, linear_form
    from featx.model.modelfile import dump_head, load_head

    X, y = blobs(seed=1)
    found = search("svm", X, y)
    ways = [row["params"].get("clf", "one-vs-one") for row in found.table]
    assert {way: ways.count(way) for way in ways} == {"one-vs-one": 7, "one-vs-rest": 7}
    best = max(found.table, key=lambda row: row["mean"])
    assert found.chosen["params"] == best["params"] == {"clf": "one-vs-rest", "clf__C": 0.1}
    assert found.chosen["multiclass"] == "one-vs-rest"
    again = load_head(dump_head(found.estimator), "here")
    table = found.estimator.predict_proba(X)
    np.testing.assert_array_equal(again.predict_proba(X), table)
    exported = head_module(again, sorted(set(y.tolist())))(torch.tensor(X)).detach().numpy()
    np.testing.assert_allclose(exported, table, atol=1e-5)
    form, said = linear_form(again, X[0]), decisions(again, X[:1])
    assert form is not None
    assert said is not None
    assert form.sides == tuple((f"class {k}", None) for k in range(3))
    np.testing.assert_allclose(form.weights @ X[0] + form.bias, said[0], atol=1e-9)


def test_pairs_are_scored_as_they_were_and_stand_alone_where_they_must() -> None:
    X, y = blobs(seed=1)
    pairs = search("svm", X, y, grid=get_head("svm").grid)
    assert {row["params"].get("clf") for row in pairs.table} == {None}
    assert pairs.table == search("svm", X, y).table[:7]
    assert pairs.chosen["multiclass"] == "one-vs-one"
    two = y != "class 2"
    found = search("svm", X[two], y[two])
    assert len(found.table) == 7
    assert "multiclass" not in found.chosen
    weighted = search("svm", X, y, sample_weight=np.ones(90))
    assert len(weighted.table) == 7
    X, y = blobs(300, 60, 60)
    many = search(get_head("svm").with_grid({"clf__C": [0.01]}), X, y, folds=2)
    assert many.chosen["multiclass"] == "one-vs-one"
    assert "pairs-alone" in [note["code"] for note in many.warnings]


@pytest.mark.parametrize("head", ["svm", "auto"])
def test_a_fit_keeps_one_class_against_the_rest(tmp_path: Path, head: str) -> None:
    X, y = blobs(150, seed=1)
    path, out = cache_of(tmp_path, X, y), tmp_path / "m.featx"
    only = get_head("svm").with_grid(
        {"clf": [OneVsRestClassifier(SVC(kernel="linear"))], "clf__estimator__C": [0.01, 0.1]}
    )
    asked = only if head == "svm" else replace(AUTO, options=(only,))
    found = featx.fit(path, asked, out=out)
    assert found.chosen["multiclass"] == "one-vs-rest"
    assert found.trained_on == 150
    model = featx.load_model(out)
    told = model.figures["chosen"]
    assert told["multiclass"] == "one-vs-rest"
    assert told["params"]["clf"] == "one-vs-rest"
    assert (model.estimator.predict(X) == y).mean() > 0.8


@pytest.mark.parametrize("scale", ["temperature", "sigmoid"])
def test_a_few_wild_decisions_do_not_flatten_a_scale(scale: Any) -> None:
    """Held-out rows with a feature that hardly varied in training have decisions of thousands."""
    rng = np.random.default_rng(0)
    codes = np.arange(600) % 3
    y = np.array(["a", "b", "c"])[codes]
    decisions = 2 * np.eye(3)[codes] + rng.normal(size=(600, 3))
    wild = decisions.copy()
    wild[rng.permutation(600)[:3], [0, 1, 2]] = 3000.0, -3000.0, 1500.0
    folds = list(StratifiedKFold(5).split(decisions, y))
    for few in (decisions, wild):
        np.testing.assert_array_equal(bounded(decisions, codes), decisions)
        table = held_probabilities(few, y, folds, scale)
        assert (table.argmax(axis=1) == few.argmax(axis=1)).mean() > 0.9
        assert log_loss(codes, table) < 0.75
