"""Selection: who may see which rows, and the same choice as scikit-learn's own search."""

import json
import subprocess
import sys

import numpy as np
import pytest
import skops.io
from coloured import rows_of_three
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from featx.errors import FitError
from featx.heads import HEADS, get_head
from featx.selection import (
    SplitPlan,
    leak_warnings,
    make_folds,
    make_split,
    search,
)


@pytest.fixture(scope="module")
def rows():
    return rows_of_three()


# Splits


def test_a_split_is_stratified_disjoint_and_repeatable(rows):
    _, y = rows
    train, validation, test = make_split(y, test_size=0.25, seed=3)
    assert validation is None
    assert sorted([*train, *test]) == list(range(len(y)))
    assert np.abs(np.bincount(y[test]) / len(test) - np.bincount(y) / len(y)).max() < 0.02
    np.testing.assert_array_equal(test, make_split(y, test_size=0.25, seed=3).test)
    assert not np.array_equal(test, make_split(y, test_size=0.25, seed=4).test)


@pytest.mark.parametrize("share", [0.2, 0.25, 0.4, 0.6])
def test_groups_stay_on_one_side_in_about_the_share_asked_for(share):
    rng = np.random.default_rng(0)
    groups = np.array([f"module {g}" for g in rng.integers(40, size=600)])
    y = rng.integers(2, size=600)
    train, _, test = make_split(y, groups=groups, test_size=share)
    assert not set(groups[train]) & set(groups[test])
    assert len(test) / 600 == pytest.approx(share, abs=0.08)
    folds, notes = make_folds(y, folds=4, groups=groups)
    assert all(not set(groups[a]) & set(groups[b]) for a, b in folds)
    assert notes == []


def test_another_seed_divides_the_groups_otherwise():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(44), 60)
    y = (rng.random(len(groups)) < np.linspace(0.1, 0.6, 44)[groups]).astype(int)
    tests, shares = set(), []
    for seed in range(20):
        _, _, test = make_split(y, groups=groups, test_size=0.25, seed=seed)
        tests.add(tuple(np.unique(groups[test])))
        shares.append([len(test) / len(y), y[test].mean()])
    assert len(tests) == 20
    assert np.abs(np.array(shares) - [0.25, y.mean()]).max() < 0.06
    dealt = [make_folds(y, folds=5, groups=groups, seed=s)[0] for s in (0, 0, 1)]
    for again, other, first in zip(dealt[1], dealt[2], dealt[0], strict=True):
        np.testing.assert_array_equal(first[1], again[1])
        assert not np.array_equal(first[1], other[1])


def test_rows_without_a_group_stand_alone():
    y = np.array([0, 1] * 20)
    groups = [None if i < 30 else "one" for i in range(40)]
    train, _, test = make_split(y, groups=groups)
    both = {groups[i] for i in train} & {groups[i] for i in test}
    assert "one" not in both
    assert 5 < len(test) < 15


def test_the_manifest_decides_where_it_says_something():
    split = ["train", "test", "Validation", "train"]
    assert [list(part) for part in make_split([0, 1, 0, 1], split=split)] == [[0, 3], [2], [1]]
    train, validation, test = make_split([0, 1, 0], split=["train", "train", "val"])
    assert (list(train), validation, list(test)) == ([0, 1], None, [2])


def test_numbers_are_stratified_by_their_quantiles():
    y = np.random.default_rng(0).exponential(size=400)
    train, _, test = make_split(y, task="regression")
    assert np.quantile(y[train], [0.1, 0.5, 0.9]) == pytest.approx(
        np.quantile(y[test], [0.1, 0.5, 0.9]), rel=0.2
    )
    few = make_split(np.array([0.0, 1 / 3, 2 / 3, 1.0] * 10), task="regression")
    assert len(few.test) == 10


def test_fewer_groups_than_folds_fall_back_and_say_so():
    y = np.array([0, 1] * 30)
    folds, notes = make_folds(y, folds=5, groups=np.arange(60) // 20)
    assert len(folds) == 3
    assert [n["code"] for n in notes] == ["group-fallback"]


def test_a_plan_is_normalised_once():
    plan = SplitPlan(split="0.3", folds=4)
    assert (plan.split, plan.test_size) == ("auto", 0.3)
    assert SplitPlan("part").split == "part"
    for bad in ({"split": "1.5"}, {"folds": 1}, {"repeats": 0}):
        with pytest.raises(FitError, match="expected"):
            SplitPlan(**bad)


# Leaks


def test_a_planted_duplicate_and_a_divided_group_are_reported():
    digests = np.array(["a", "b", "c", "a", "", ""])
    train, test = np.array([0, 1, 4]), np.array([2, 3, 5])
    found = leak_warnings(train, test, digests=digests, groups=["p", "q", "r", "q", "s", "t"])
    assert [w["code"] for w in found] == ["duplicates-across-split", "groups-across-split"]
    assert "1 of 3 test images" in found[0]["message"]
    assert "row 3" in found[0]["message"]
    twins = leak_warnings(train, test, digests=digests, y=[0, 0, 0, 1, 0, 0])
    assert "1 of them with different labels" in twins[0]["message"]
    assert leak_warnings(train, test, digests=list("abcdef"), groups=list("abcdef")) == []


class Recorder(TransformerMixin, BaseEstimator):
    """Keeps, for the whole class, which rows (by their first feature) each fit has seen."""

    seen: list = []  # noqa: RUF012

    def fit(self, X, y=None):
        Recorder.seen.append(set(X[:, 0].astype(int)))
        return self

    def transform(self, X):
        return X


def test_no_fold_fits_anything_on_its_held_out_rows_and_no_fit_sees_a_test_row():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=90)
    X = np.c_[np.arange(90), rng.normal(size=(90, 3)) + y[:, None]]
    train, _, test = make_split(y)
    Recorder.seen.clear()
    own = Pipeline(
        [("mark", Recorder()), ("scale", StandardScaler()), ("clf", LogisticRegression())]
    )
    search(get_head(own), X[train], y[train], n_jobs=1)
    assert all(not seen & set(test) for seen in Recorder.seen)
    folds, _ = make_folds(y[train])
    wanted = [set(train[inner]) for inner, _ in folds] + [set(train)]
    assert Recorder.seen == wanted


# Search


@pytest.mark.parametrize("name", ["svm", "svm-rbf", "logreg", "ridge", "knn"])
def test_the_search_chooses_as_grid_search_does_with_the_same_scores(name, rows):
    X, y = rows
    folds, _ = make_folds(y, seed=1)
    head = HEADS[name]
    plain = GridSearchCV(head.build(1, len(y)), dict(head.grid), cv=folds).fit(X, y)
    found = search(head, X, y, seed=1, grid=head.grid)
    wanted = np.array([plain.cv_results_[f"split{k}_test_score"] for k in range(5)]).T
    # One row of a fold may fall either way where its margin is nothing but rounding.
    np.testing.assert_allclose([r["scores"] for r in found.table], wanted, atol=1.01 / 48)
    assert np.abs([r["mean"] for r in found.table] - wanted.mean(axis=1)).max() < 0.5 / 48
    assert found.best_params == plain.best_params_


def test_preparations_are_part_of_the_search(rows):
    X, y = rows
    head = get_head("svm").with_preparation(["standard", "l2", "signed-power"], [None, 5])
    found = search(head, X, y, grid={**head.grid, "clf__C": [0.01, 0.1]})
    assert len(found.table) == 12
    json.dumps(found.chosen)
    json.dumps(found.table)


@pytest.mark.parametrize("name", ["svm", "svm-rbf", "ridge"])
def test_a_head_without_probabilities_gets_calibrated_ones_and_saves(name, rows):
    X, y = rows
    names = np.array(["crack", "dust", "good"])[y]
    found = search(name, X, names, grid={k: v[2:4] for k, v in HEADS[name].grid.items()})
    assert found.calibrated
    table = found.estimator.predict_proba(X)
    np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-6)
    data = skops.io.dumps(found.estimator)
    again = skops.io.loads(data, trusted=skops.io.get_untrusted_types(data=data))
    np.testing.assert_array_equal(again.predict_proba(X), table)
    assert not search("logreg", X, y).calibrated


def test_groups_hold_in_the_calibration_too():
    # Each group is one point: only a calibration across groups knows that labels are noise.
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 6)
    X, y = np.repeat(rng.normal(size=(40, 60)), 6, axis=0), np.repeat(rng.integers(2, size=40), 6)
    loose, kept = (search("svm", X, y, groups=g, grid={"clf__C": [1.0]}) for g in (None, groups))
    assert loose.estimator.predict_proba(X).max() > 0.95
    assert kept.estimator.predict_proba(X).max() < 0.9
    assert loose.best_score > 0.95
    assert kept.best_score < 0.75


def test_sample_weights_reach_the_classifier_and_only_it(rows):
    X, y = rows
    weights = np.where(y == 2, 1e-6, 1.0)
    for name in ("svm", "logreg"):
        found = search(name, X, y, sample_weight=weights, grid={"clf__C": [0.01]})
        assert (found.estimator.predict(X) == 2).mean() < 0.02
        data = skops.io.dumps(found.estimator)
        skops.io.loads(data, trusted=skops.io.get_untrusted_types(data=data))


def test_a_value_at_the_edge_of_the_grid_is_reported_and_refining_goes_beyond(rows):
    X, y = rows
    grid = {"clf__C": [1e-5, 1e-4, 1e-3]}
    found = search("logreg", X, y, grid=grid)
    assert found.at_edge == ["clf__C"]
    assert [w["code"] for w in found.warnings] == ["c-at-grid-edge"]
    further = search("logreg", X, y, grid=grid, refine=4)
    assert further.best_params["clf__C"] > 1e-3
    assert further.best_score > found.best_score


def test_within_one_standard_error_the_simpler_model_is_chosen(rows):
    X, y = rows
    best = search("logreg", X, y)
    simple = search("logreg", X, y, one_standard_error=True)
    assert simple.best_params["clf__C"] < best.best_params["clf__C"]
    row = next(r for r in best.table if r["params"] == best.best_params)
    error = np.std(row["scores"], ddof=1) / np.sqrt(5)
    assert simple.best_score >= best.best_score - error


def test_fits_that_stop_early_are_reported(rows):
    X, y = rows
    hasty = get_head("logreg").with_params(clf__max_iter=2)
    assert "not-converged" in [w["code"] for w in search(hasty, X, y).warnings]


def test_a_validation_split_serves_as_the_one_fold(rows):
    X, y = rows
    found = search("svm", X, y, folds=[(np.arange(180), np.arange(180, 240))])
    assert found.folds == 1
    assert len(found.table[0]["scores"]) == 1
    assert found.calibrated


# What cannot be fitted


def nan_at(row):
    X = np.zeros((20, 3))
    X[row, 1] = np.nan
    return X


def twins(y):
    return np.eye(3)[y]


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda X, y: search("svm", X, y * 0), "only class '0'"),
        (lambda X, y: search("svm", X * 0 + 1, y), "features are the same in all 240 rows"),
        (lambda X, y: search("lda", twins(y), y), "do not vary within classes"),
        (lambda X, y: search("svm", X, y[:-1]), "240 rows of features and 239 labels"),
        (lambda X, y: search("svm", nan_at(7), y[:20]), "in 1 of 20 rows, first in row 7"),
        (lambda X, y: search("svm", X[:4], [0, 1, 0, 1]), "4 training rows and 5 folds"),
        (
            lambda X, y: search("svm", X[:20], ["a"] * 17 + ["crack"] * 3),
            "class 'crack' has 3 rows, and 5 folds need 5 .* or ask for 3 folds",
        ),
        (lambda X, y: search("svm", X, y, groups=["p"] * 240), "one group .'p'."),
        (lambda X, y: search("svm", X, y, groups=["p", "q"]), "240 rows and 2 groups"),
        (lambda X, y: search("svm", X, y, groups=y), "class '.' lies in so few groups"),
        (lambda X, y: search("svm", X, y, grid={}), "grid is empty"),
        (lambda X, y: search("svm", X, y, grid={"clf__C": []}), "no value for clf__C"),
        (lambda X, y: search("svm", X, y, grid={"clf__D": [1]}), "Invalid parameter 'D'"),
        (lambda X, y: search("svm", X, y, scoring="roc_auc"), "score roc_auc"),
        (lambda X, y: search("svm", X, y, scoring="acuracy"), "did you mean .*accuracy"),
        (lambda X, y: search("knn", X, y, sample_weight=y + 1.0), "takes no sample weights"),
        (lambda X, y: search("svm", X, y, sample_weight=y - 1.0), "weight of row"),
        (lambda X, y: search("svr", X, np.eye(3)[y]), "predicts one number"),
        (lambda X, y: make_split([0, 0, 0, 1]), "class '1' has 1 row"),
        (lambda X, y: make_split(y, test_size=1.2), "between 0 and 1"),
        (lambda X, y: make_split([0, 1], split=["train", "tset"]), "'tset'; did you mean test"),
        (lambda X, y: make_split([0, 1], split=["train", "train"]), "no test row"),
        (lambda X, y: make_split(y, split=["train"]), "240 rows and 1 split values"),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_do(call, reason, rows):
    with pytest.raises(FitError, match=reason) as caught:
        call(*rows)
    assert "\n" not in str(caught.value)


def test_heads_selection_and_evaluation_load_neither_torch_nor_h5py():
    code = (
        "import sys, featx.heads, featx.selection, featx.evaluation\n"
        "assert not {'torch', 'h5py'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("several", [False, True])
def test_a_head_whose_decisions_hardly_vary_has_probabilities_that_do(several: bool) -> None:
    """At a large alpha a sigmoid that is fitted on plain decisions stays flat."""
    rng = np.random.default_rng(0)
    codes = np.arange(120) % 3
    X = rng.normal(size=(120, 12)).astype(np.float32)
    X[np.arange(120), codes] += 6
    y = (codes[:, None] == np.arange(3)).astype(np.int8) if several else codes.astype(str)
    head = HEADS["ridge"].with_grid({"clf__alpha": [1e6]})
    found = search(head, X, y)
    assert (found.estimator.predict(X) == y).mean() > 0.99
    assert found.estimator.predict_proba(X)[np.arange(120), codes].min() > 0.5
