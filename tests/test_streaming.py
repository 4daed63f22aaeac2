"""Heads from blocks of rows: the answer of scikit-learn in memory, whatever the blocks are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from featx.errors import FitError
from featx.heads import HEADS
from featx.model.modelfile import dump_head, load_head
from featx.selection import search
from featx.selection.hyperparameters import SearchOptions, choose
from featx.streaming import Blocks, plan_memory, search_blocks
from featx.streaming.descent import LOSSES, Descent, DescentProblem, Wish, descend
from featx.streaming.moments import gather, lda, one_hot, ridge, scale_of

CLASSIFIERS = ("ridge", "lda", "logreg", "svm-large")


def clouds(n: int, k: int, d: int = 24, seed: int = 0) -> tuple[Any, Any]:
    """Overlapping classes with correlated columns, means far from zero, and a constant column."""
    # The clouds are the same whatever the seed, which draws the rows.
    fixed, rng = np.random.default_rng(99), np.random.default_rng(seed)
    centres, mixing = fixed.normal(size=(k, d)), fixed.normal(size=(d, d))
    y = rng.integers(0, k, n)
    X = centres[y] + rng.normal(size=(n, d)) @ mixing + 50 * np.arange(d)
    X[:, 3] = 7.25
    return X.astype(np.float32), y


def relative(found: Any, wanted: Any) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def sums(X: Any, y: Any, fold_of: Any = None, weights: Any = None) -> Any:
    fold_of = np.full(len(y), -1) if fold_of is None else fold_of
    targets = one_hot(y, y.max() + 1) if y.dtype.kind == "i" else y[:, None]
    return gather(Blocks.of(X, 64), targets, fold_of, int(fold_of.max()) + 1, weights)


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_ridge_is_that_of_scikit_learn_at_every_alpha_from_one_pass(k: int, weighted: bool) -> None:
    X, y = clouds(700, k)
    weights = np.random.default_rng(1).uniform(0.5, 2, len(y)) if weighted else None
    found = sums(X, y, weights=weights)
    Z = StandardScaler().fit_transform(X.astype(np.float64))
    alphas = HEADS["ridge"].grid["clf__alpha"]
    for alpha, head in zip(alphas, ridge(found.whole, found.shift, alphas, True), strict=True):
        wanted = RidgeClassifier(alpha=alpha).fit(Z, y, weights)
        assert relative(head.coef, wanted.coef_) < 1e-6
        assert relative(head.intercept, wanted.intercept_) < 1e-6


def test_ridge_regression_is_that_of_scikit_learn() -> None:
    X, _ = clouds(700, 4)
    number = 1000 + X @ np.linspace(-1, 1, X.shape[1]) + np.random.default_rng(2).normal(size=700)
    found = sums(X, number)
    Z = StandardScaler().fit_transform(X.astype(np.float64))
    (head,) = ridge(found.whole, found.shift, [10.0], False)
    wanted = Ridge(alpha=10.0).fit(Z, number)
    assert relative(head.coef[0], wanted.coef_) < 1e-6
    assert relative(head.intercept, wanted.intercept_) < 1e-6


@pytest.mark.parametrize("solver", ["lsqr", "eigen"])
@pytest.mark.parametrize("k", [2, 5])
def test_lda_is_that_of_scikit_learn_at_every_shrinkage(solver: str, k: int) -> None:
    X, y = clouds(700, k)
    found = sums(X, y)
    Z = StandardScaler().fit_transform(X.astype(np.float64))
    shares = HEADS["lda"].grid["clf__shrinkage"]
    for share, head in zip(shares, lda(found.whole, found.shift, shares), strict=True):
        wanted = LinearDiscriminantAnalysis(solver=solver, shrinkage=share).fit(Z, y)
        said = Z @ head.coef.T + head.intercept
        meant = wanted.decision_function(Z).reshape(said.shape)
        # The eigen solver's decisions differ by a constant of each row, which is of no account.
        centre = k > 2
        gap = (said - centre * said.mean(1, keepdims=True)) - (
            meant - centre * meant.mean(1, keepdims=True)
        )
        assert np.abs(gap).max() < 1e-6 * np.abs(meant).max()


def test_a_fold_is_fitted_and_scaled_on_its_training_rows_alone() -> None:
    X, y = clouds(600, 3)
    fold_of = np.arange(600) % 4
    found, rest = sums(X, y, fold_of), fold_of != 2
    own = make_pipeline(StandardScaler(), RidgeClassifier(alpha=5.0))
    own.fit(X[rest].astype(np.float64), y[rest])
    training = found.training(2)
    np.testing.assert_allclose(scale_of(training, found.shift).mean, own[0].mean_, rtol=1e-12)
    np.testing.assert_allclose(scale_of(training, found.shift).scale, own[0].scale_, rtol=1e-9)
    (head,) = ridge(training, found.shift, [5.0], True)
    assert relative(head.coef, own[1].coef_) < 1e-6


def test_large_means_cost_no_digits() -> None:
    """A mean of a million spreads: squares of the plain values would lose the variance."""
    rng = np.random.default_rng(0)
    X, y = (rng.normal(size=(500, 5)) + 2.0**20).astype(np.float32), rng.integers(0, 2, 500)
    found = sums(X, y)
    wanted = X.astype(np.float64)
    np.testing.assert_allclose(scale_of(found.whole, found.shift).var, wanted.var(0), rtol=1e-9)


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("name", ["logreg", "svm-large"])
@pytest.mark.parametrize("weighted", [False, True])
def test_descent_ends_where_scikit_learn_does(name: str, k: int, weighted: bool) -> None:
    X, y = clouds(800, k, d=12)
    fold_of = np.arange(800) % 5
    weights = np.random.default_rng(1).uniform(0.5, 2, len(y)) if weighted else None
    problem = DescentProblem(
        Blocks.of(X, 64),
        sums(X, y, fold_of, weights),
        y,
        fold_of,
        weights,
        LOSSES[name](k),
        1 if k == 2 else k,
    )
    for fold, rows in ((None, fold_of >= 0), (3, fold_of != 3)):
        Z = StandardScaler().fit_transform(X[rows].astype(np.float64))
        (head,) = descend(problem, [Wish(1e-2, fold)])
        make = (
            LogisticRegression(C=1e-2, tol=1e-8, max_iter=10_000)
            if name == "logreg"
            else LinearSVC(C=1e-2, dual=False, tol=1e-8, max_iter=10_000)
        )
        wanted = make.fit(Z, y[rows], None if weights is None else weights[rows])
        assert head.converged
        # What only votes on a strength may end a little earlier.
        near = 2e-3 if fold is None else 2e-2
        assert relative(head.coef, wanted.coef_) < near
        assert relative(head.intercept, wanted.intercept_) < 5 * near


def test_descents_side_by_side_do_not_touch_each_other() -> None:
    X, y = clouds(600, 3)
    fold_of = np.arange(600) % 3
    problem = DescentProblem(
        Blocks.of(X), sums(X, y, fold_of), y, fold_of, None, LOSSES["logreg"](3), 3
    )
    wishes = [Wish(C, fold) for C in (1e-3, 1.0) for fold in (0, None)]
    together, alone = descend(problem, wishes), [descend(problem, [w])[0] for w in wishes]
    for one, other in zip(together, alone, strict=True):
        assert relative(one.coef, other.coef) < 1e-2


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("k", [2, 4])
def test_search_agrees_with_memory(name: str, k: int) -> None:
    """Stated tolerance: held-out accuracy within 0.005, probabilities within 0.02."""
    X, y = clouds(1200, k)
    names = np.array(["ash", "birch", "cedar", "dogwood"])[y]
    streamed = search_blocks(HEADS[name], Blocks.of(X, 200), names)
    memory = search(name, X, names)
    assert streamed.best_params == memory.best_params
    for one, other in zip(streamed.table, memory.table, strict=True):
        assert one["params"] == other["params"]
        np.testing.assert_allclose(one["scores"], other["scores"], atol=0.02)
    X_new, y_new = clouds(2000, k, seed=5)
    truth = np.array(["ash", "birch", "cedar", "dogwood"])[y_new]
    ours, theirs = (found.estimator.predict(X_new) for found in (streamed, memory))
    assert abs(np.mean(ours == truth) - np.mean(theirs == truth)) <= 0.005
    ours, theirs = (found.estimator.predict_proba(X_new) for found in (streamed, memory))
    assert np.abs(ours - theirs).max() < 0.02
    assert (streamed.calibrated, streamed.scale) == (memory.calibrated, memory.scale)


def test_a_descent_that_is_stopped_ends_at_its_best_point() -> None:
    def value(at: Any) -> tuple[float, Any]:
        bent = np.array([[1.0], [100.0]])
        return float((bent * at**2).sum()), 2 * bent * at

    start = np.array([[1.0], [1.0]])
    descent = Descent(start, np.ones((2, 1)), np.zeros((2, 1)), 1e-3, 1e-12)
    seen = []
    for _ in range(4):
        found, slope = value(descent.point)
        seen.append(found)
        descent.tell(found, slope)
    assert value(descent.point)[0] > min(seen)
    descent.stop()
    assert value(descent.point)[0] == min(seen)


def test_features_that_live_in_one_fold_do_not_slow_its_descent() -> None:
    """Two hundred columns that hardly vary where the first fold is held out."""
    rng = np.random.default_rng(0)
    X, y = clouds(600, 3)
    rare = rng.normal(size=(600, 200)) @ rng.normal(size=(200, 200))
    rare[120:] *= np.geomspace(3e-3, 1, 200)
    X = np.hstack([X, rare]).astype(np.float32)
    folds = [
        (np.setdiff1d(np.arange(600), held), held) for held in np.array_split(np.arange(600), 5)
    ]
    head = HEADS["svm-large"].with_grid({"clf__C": [0.01, 0.1]})
    found = search_blocks(head, Blocks.of(X), y.astype(str), folds=folds)
    assert "not-converged" not in [note["code"] for note in found.warnings]
    assert found.passes < 300  # 571 in the axes of all rows


@pytest.mark.parametrize("scales", [False, True])
def test_the_scale_of_probabilities_is_chosen_in_blocks_as_in_memory(scales: bool) -> None:
    X, y = clouds(600, 3)
    names = np.array(["ash", "birch", "cedar"])[y]
    head = HEADS["logreg"].with_grid({"clf__C": [1.0]})
    streamed = search_blocks(head, Blocks.of(X, 100), names, compete=scales)
    memory = choose(head, X, names, SearchOptions()).fitted(True, scales)
    assert (streamed.scale, streamed.calibrated) == (memory.scale, memory.calibrated)
    assert scales or streamed.scale == "own"
    ours, theirs = (found.estimator.predict_proba(X) for found in (streamed, memory))
    assert np.abs(ours - theirs).max() < 0.02


def test_search_of_a_number_agrees_with_memory() -> None:
    X, _ = clouds(900, 3)
    y = X @ np.linspace(-1, 1, X.shape[1]) + np.random.default_rng(0).normal(size=900) * 30
    streamed = search_blocks(HEADS["ridge-reg"], Blocks.of(X, 100), y)
    memory = search("ridge-reg", X, y)
    assert streamed.best_params == memory.best_params
    assert streamed.scoring == "r2"
    for one, other in zip(streamed.table, memory.table, strict=True):
        np.testing.assert_allclose(one["scores"], other["scores"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        streamed.estimator.predict(X), memory.estimator.predict(X), rtol=1e-4
    )


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_blocks_and_threads_do_not_change_the_answer(name: str) -> None:
    X, y = clouds(500, 3)
    several = Blocks.of(X, 64)
    several.workers = 3
    first = search_blocks(HEADS[name], several, y).estimator.predict_proba(X)
    again = Blocks.of(X, 64)
    again.workers = 1
    np.testing.assert_array_equal(
        search_blocks(HEADS[name], again, y).estimator.predict_proba(X), first
    )
    whole = search_blocks(HEADS[name], Blocks.of(X), y).estimator.predict_proba(X)
    np.testing.assert_allclose(whole, first, atol=1e-3)


def test_everything_is_read_twice_and_never_at_once() -> None:
    X, y = clouds(1000, 3)
    asked: list[int] = []

    def read(rows: Any) -> Any:
        asked.append(len(rows))
        return X[rows]

    found = search_blocks(HEADS["ridge"], Blocks(read, *X.shape, step=100), y)
    assert found.passes == found.chosen["passes"] == 2
    # Ten blocks twice, and the first rows for a middle; a thousand rows are few here.
    assert sorted(asked) == [100] * 20 + [1000]


def test_groups_and_given_folds_are_kept() -> None:
    X, y = clouds(600, 3)
    groups = np.arange(600) // 10
    streamed = search_blocks(HEADS["lda"], Blocks.of(X), y, groups=groups, folds=3)
    memory = search("lda", X, y, groups=groups, folds=3)
    np.testing.assert_allclose(streamed.table[2]["scores"], memory.table[2]["scores"], atol=1e-9)
    held = np.arange(450, 600)
    one = [(np.arange(450), held)]
    streamed = search_blocks(HEADS["ridge"], Blocks.of(X), y, folds=one)
    memory = search("ridge", X, y, folds=one)
    assert streamed.folds == 1
    assert streamed.table[0]["scores"] == pytest.approx(memory.table[0]["scores"])


@pytest.mark.parametrize("name", [*CLASSIFIERS, "ridge-reg"])
def test_the_head_is_scikit_learns_own_and_survives_a_file(name: str) -> None:
    X, y = clouds(400, 3)
    found = search_blocks(
        HEADS[name], Blocks.of(X), y.astype(float) if name[-1] == "g" and name == "ridge-reg" else y
    )
    loaded = load_head(dump_head(found.estimator), "test")
    np.testing.assert_array_equal(loaded.predict(X), found.estimator.predict(X))
    assert loaded.n_features_in_ == X.shape[1]
    again = clone(found.estimator).fit(X, y)
    # Its own folds calibrate, and its own descents end earlier: rows at a border may differ.
    same = np.isclose(again.predict(X), found.estimator.predict(X), atol=1e-3)
    assert same.mean() >= 0.97


def test_kept_decisions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featx.streaming.solving.KEPT_BYTES", 1)
    X, y = clouds(1500, 2)
    found = search_blocks(HEADS["ridge"], Blocks.of(X, 100), y)
    probabilities = found.estimator.predict_proba(X)
    assert ((probabilities > 0.5).argmax(axis=1) == found.estimator.predict(X)).mean() > 0.99


def test_a_rare_class_is_calibrated_where_decisions_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("featx.streaming.solving.KEPT_BYTES", 1)
    X, y = clouds(20_000, 3, d=6)
    rare = np.flatnonzero(y == 1)[:5]
    keep = np.sort(np.concatenate([np.flatnonzero(y != 1), rare]))
    X, y = X[keep], y[keep]
    for seed in range(3):
        found = search_blocks(HEADS["ridge"], Blocks.of(X), y, seed=seed)
        assert set(np.flatnonzero(y == 1)) <= set(found.held_rows)
        assert found.estimator.classes_.tolist() == [0, 1, 2]
        assert found.held_probabilities is not None
        assert found.held_probabilities.shape == (len(found.held_rows), 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": "single"}, "class 'rare' has 1 row, and 5 folds need 5 of each class"),
        ({"y": "one"}, "hold only class 'a'; a classifier needs two or more classes"),
        ({"X": "nan"}, r"NaN or infinity in 2 rows of one block \(rows 70, 75\)"),
        ({"groups": "one"}, r"the group column holds one group \('g'\)"),
        ({"y": "short"}, "100 rows of features and labels of shape"),
        ({"folds": "partial"}, "hold out each row once and train on all others"),
        ({"weights": "lda"}, "takes no sample weights"),
    ],
)
def test_bad_input_is_one_line(change: dict[str, str], message: str) -> None:
    X = np.random.default_rng(0).normal(size=(100, 4))
    y, options, head = np.array(["a", "b"] * 50, dtype=object), {}, HEADS["ridge"]
    match next(iter(change.items())):
        case ("y", "single"):
            y[0] = "rare"
        case ("y", "one"):
            y[:] = "a"
        case ("y", "short"):
            y = y[:50]
        case ("X", _):
            X[[70, 75], 1] = np.nan
        case ("groups", _):
            options["groups"] = ["g"] * 100
        case ("folds", _):
            options["folds"] = [(np.arange(10), np.arange(10, 20))]
        case ("weights", _):
            head, options["sample_weight"] = HEADS["lda"], np.ones(100)
    with pytest.raises(FitError, match=message) as caught:
        search_blocks(head, Blocks.of(X, 64), y.astype(str), **options)
    assert "\n" not in str(caught.value)


def test_heads_that_need_all_rows_are_refused() -> None:
    X, y = clouds(100, 2)
    for head in (HEADS["knn"], HEADS["ridge"].with_params(clf__class_weight="balanced")):
        with pytest.raises(FitError, match="needs all rows in memory; these do not: ridge"):
            search_blocks(head, Blocks.of(X), y)


def test_memory_is_planned_by_size_and_said() -> None:
    def plan(name: str, rows: int, asked: str = "auto", free: int = 8 << 30) -> Any:
        return plan_memory(HEADS[name], "classification", rows, 1280, asked, free)

    assert plan("ridge", 2000).to_dict() == {"way": "ram", "why": "it fits"}
    assert plan("ridge", 10**6, "ram").to_dict() == {"way": "ram", "why": "as asked"}
    assert not plan("ridge", 2000).streamed
    assert not plan("ridge", 2000).line
    for found in (plan("logreg", 10**6), plan("ridge", 2000, "stream"), plan("svm-large", 10**5)):
        assert found.streamed
        assert "read in blocks" in found.line
    # A head that gives way to another does so for want of memory alone, and by name.
    assert not plan("svm", 10_000).streamed
    short = plan_memory(HEADS["svm"], "classification", 10_000, 640, free=100 << 20)
    assert short.streamed
    assert "svm-large in place of svm" in short.line
    assert short.to_dict()["way"] == "stream"
    assert "free memory: about 0.1 GiB in memory, 0.1 GiB free" in short.why
    large = plan("svm-rbf", 10**6)
    assert not large.streamed
    assert "these need less: ridge" in large.line
    with pytest.raises(FitError, match="needs all rows in memory"):
        plan("knn", 2000, "stream")
    with pytest.raises(FitError, match="memory is 'steam'; did you mean stream"):
        plan("ridge", 2000, "steam")
    with pytest.raises(FitError, match=r"products take .* free; take fewer features"):
        plan("ridge", 10**6, free=100 << 20)
