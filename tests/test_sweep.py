"""The sweep: what candidates share changes no score, and scikit-learn's warnings stay inside."""

import warnings

import joblib
import numpy as np
import pytest
from sklearn.datasets import make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from featx.heads import HEADS, get_head
from featx.selection import make_folds, search
from featx.selection.sweep import in_threads


def test_gammas_and_support_vector_regression_share_kernels_without_changing_scores():
    X, y = make_regression(150, 10, noise=20, random_state=0)
    y = y / y.std()
    folds, _ = make_folds(y, task="regression")
    grid = {"clf__C": [0.3, 3.0], "clf__gamma": ["scale", "auto", 0.03]}
    found = search("svr", X, y, grid=grid)
    plain = GridSearchCV(HEADS["svr"].build(), grid, cv=folds).fit(X.astype(np.float32), y)
    np.testing.assert_allclose(
        [r["mean"] for r in found.table], plain.cv_results_["mean_test_score"], atol=1e-4
    )
    assert found.best_params == plain.best_params_


def test_an_rbf_kernel_leaves_columns_as_wide_as_they_are_where_that_tells_more():
    rng = np.random.default_rng(0)
    y = np.arange(150) % 3
    # Three wide columns tell the classes apart; standardised, 300 narrow ones drown them.
    X = np.c_[3 * np.eye(3)[y] + rng.normal(size=(150, 3)), rng.normal(scale=0.05, size=(150, 300))]
    found = search("svm-rbf", X, y)
    assert {row["params"]["scale"] for row in found.table} == {"standard", "l2", "signed-power"}
    assert found.chosen["params"]["scale"] != "standard"
    alone = search(get_head("svm-rbf").with_preparation(["standard"]), X, y)
    assert found.best_score > alone.best_score + 0.1
    simple = search("svm-rbf", X, y, one_standard_error=True)
    assert simple.chosen["params"]["scale"] == found.chosen["params"]["scale"]
    assert simple.best_params["clf__C"] <= found.best_params["clf__C"]


def test_warnings_that_the_search_answers_stay_inside_and_others_come_once():
    def noisy(_):
        # As scikit-learn's own loops do, for the whole process.
        warnings.resetwarnings()
        warnings.warn("stopped early", ConvergenceWarning, stacklevel=1)
        warnings.warn("something odd", UserWarning, stacklevel=1)

    with pytest.warns(UserWarning, match="odd") as caught, in_threads(2, 4):
        joblib.Parallel()(joblib.delayed(noisy)(k) for k in range(4))
    assert [str(one.message) for one in caught] == ["something odd"]


@pytest.mark.parametrize("labels", ["one", "several"])
@pytest.mark.parametrize("name", [name for name, head in HEADS.items() if not head.parts])
def test_tiny_folds_bring_no_warning_of_scikit_learn(name, labels):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 3)), np.arange(20) % 4
    if HEADS[name].task == "regression":
        y = rng.normal(size=20)
    elif labels == "several":
        y = np.c_[y == 1, rng.integers(2, size=20)].astype(int)
    for rows in ([0, 1, 2, 3, 4, 5, 6, 7], [0, 2, 3, 5, 6, 7, 1, 10]):
        folds = [(np.array(rows), np.setdiff1d(np.arange(20), rows))]
        assert search(name, X, y, folds=folds).estimator.predict(X).shape == y.shape
