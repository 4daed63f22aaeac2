"""Rows with several labels: fitted one by one on shared kernels, calibrated across groups."""

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier

from featx.errors import FitError
from featx.heads import HEADS
from featx.selection import make_folds, search


def test_several_labels_a_row():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 10))
    y = (X[:, :3] + rng.normal(size=(120, 3)) / 3 > 0).astype(int)
    found = search("svm", X, y, grid={"clf__C": [0.01, 1.0]})
    assert found.estimator.predict(X).shape == (120, 3)
    assert found.best_score > 0.8


@pytest.mark.parametrize("name", ["svm", "svm-rbf"])
def test_several_labels_share_kernels_without_changing_scores(name):
    X, y = make_classification(
        240, 40, n_informative=8, n_classes=3, class_sep=0.8, flip_y=0.1, random_state=0
    )
    labels = np.c_[y == 0, y > 0, X[:, 0] > np.median(X[:, 0])].astype(int)
    grid = {key: values[:3] for key, values in HEADS[name].grid.items()}
    folds, _ = make_folds(labels, task="multilabel")
    found = search(name, X, labels, grid=grid, probabilities=False)
    pipeline = HEADS[name].build().set_params(clf=OneVsRestClassifier(HEADS[name].build()["clf"]))
    renamed = {key.replace("clf__", "clf__estimator__"): v for key, v in grid.items()}
    plain = GridSearchCV(pipeline, renamed, cv=folds, scoring="f1_macro").fit(X, labels)
    means = [row["mean"] for row in found.table]
    np.testing.assert_allclose(means, plain.cv_results_["mean_test_score"], atol=5e-3)
    assert found.best_params == plain.best_params_


def test_calibration_of_several_labels_keeps_groups_together():
    # Folds of one group each hold out the rare label's two groups, and leave a fold without it.
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 6)
    X = np.repeat(rng.normal(size=(20, 60)), 6, axis=0)
    y = np.c_[np.repeat(rng.integers(2, size=20), 6), groups < 2].astype(int)
    halves = [np.isin(groups, part) for part in ([0, 1, *range(2, 10)], range(10, 20))]
    folds = [(np.flatnonzero(~held), np.flatnonzero(held)) for held in halves]
    options = {"grid": {"clf__C": [1.0]}, "folds": folds}
    loose, kept = (search("svm", X, y, groups=g, **options) for g in (None, groups))
    # Each group is one point: only a calibration across groups knows that labels are noise.
    assert loose.estimator.predict_proba(X)[:, 0].max() > 0.95
    assert kept.estimator.predict_proba(X)[:, 0].max() < 0.9
    assert [note["code"] for note in kept.warnings] == ["label-not-in-fold"]


def test_a_label_of_one_group_needs_no_calibration_where_probabilities_are_the_heads_own():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 6)
    y = np.c_[rng.integers(2, size=60), groups == 3].astype(int)
    X = rng.normal(size=(60, 5)) + y[:, :1]
    found = search("logreg", X, y, groups=groups)
    assert found.estimator.predict_proba(X).shape == (60, 2)
    with pytest.raises(FitError, match="calibrate probabilities while groups stay together"):
        search("svm", X, y, groups=groups)


def test_a_rare_label_is_calibrated_on_folds_that_hold_it():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 5)).astype(np.float32)
    y = (X[:, :2] > 0).astype(int)
    y = np.column_stack([y, np.arange(60) < 2])  # two rows alone
    found = search("svm", X, y, grid={"clf__C": [0.1]})
    assert found.estimator.predict_proba(X).shape == (60, 3)
