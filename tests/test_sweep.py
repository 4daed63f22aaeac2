"""The sweep: what candidates share changes no score, and scikit-learn's warnings stay inside."""

import time
import warnings

import joblib
import numpy as np
import pytest
from sklearn.datasets import make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from threadpoolctl import threadpool_info

from featx.errors import DeviceError, FitError
from featx.heads import HEADS, get_head
from featx.runtime.devices import ArrayDevice, array_device
from featx.selection import make_folds, search
from featx.selection.fold import DeviceRows
from featx.selection.sweep import in_threads, limited_threads


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
    known = {"standard", "l2", "signed-power", "signed-power-standard"}
    assert {row["params"]["scale"] for row in found.table} == known
    assert len({str(row["params"]) for row in found.table}) == len(found.table)
    assert found.chosen["params"]["scale"] in ("l2", "signed-power")
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


def classes_apart(n: int = 240) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=n)
    X = rng.normal(size=(n, 30)).astype(np.float32) + 0.7 * np.eye(3, 30, dtype=np.float32)[y]
    return X, np.array(["cat", "dog", "owl"])[y], rng.uniform(0.5, 2, n)


@pytest.mark.parametrize("labels", ["three", "two"])
@pytest.mark.parametrize("weight_of", [None, "balanced", {"cat": 3.0, "dog": 1.0}])
def test_logistic_regression_on_torch_arrays_is_that_on_numpy_arrays(labels, weight_of):
    pytest.importorskip("sklearn", minversion="1.9")
    X, y, weights = classes_apart()
    if labels == "two":
        y = np.where(y == "owl", "dog", y)
    here, there = (
        LogisticRegression(C=0.1, class_weight=weight_of, tol=1e-6, max_iter=1000, warm_start=True)
        for _ in range(2)
    )
    rows = DeviceRows(X, y, weights, ArrayDevice("cpu"))
    for C in (0.1, 1.0):  # the second starts where the first ended
        here.set_params(C=C).fit(X, y, sample_weight=weights)
        rows.fit(there.set_params(C=C))
        assert type(there.coef_) is np.ndarray
        assert there.classes_.tolist() == here.classes_.tolist()
        assert there.class_weight == weight_of
        np.testing.assert_allclose(there.coef_, here.coef_, atol=2e-3)
        np.testing.assert_array_equal(there.predict(X), here.predict(X))
        np.testing.assert_allclose(there.predict_proba(X), here.predict_proba(X), atol=1e-3)


def on_device(X, y, **more):
    return search("logreg", X, y, sample_weight=classes_apart()[2], refine=1, **more)


@pytest.mark.gpu
def test_a_search_on_a_card_chooses_what_one_on_the_processor_does():
    X, y, _ = classes_apart()
    here, there = on_device(X, y), on_device(X, y, device=array_device("cuda"))
    assert there.best_params == here.best_params
    np.testing.assert_array_equal(there.estimator.predict(X), here.estimator.predict(X))


class Counting(ArrayDevice):
    put_there = 0

    def put(self, values):
        Counting.put_there += 1
        return super().put(values)


def test_a_search_on_torch_arrays_chooses_what_one_on_numpy_arrays_does():
    pytest.importorskip("sklearn", minversion="1.9")
    X, y, _ = classes_apart()
    here, there = on_device(X, y), on_device(X, y, device=Counting("cpu"))
    assert Counting.put_there > 5 * 3  # of each fold the features, labels and weights
    assert there.best_params == here.best_params
    scores = [[row["mean"] for row in one.table] for one in (here, there)]
    np.testing.assert_allclose(*scores, atol=1e-9)
    np.testing.assert_array_equal(there.estimator.predict(X), here.estimator.predict(X))


def test_a_device_that_does_not_fit_the_head():
    X, y, _ = classes_apart()
    several, there = np.c_[y == "cat", y == "dog"].astype(int), ArrayDevice("cpu")
    with pytest.raises(FitError, match="logreg alone does, and this one ends in SVC"):
        search("svm-rbf", X, y, device=there)
    with pytest.raises(FitError, match="this one ends in StackingClassifier"):
        search("stack", X, y, device=there)
    with pytest.raises(FitError, match="one label an image, and these have several"):
        search("logreg", X, several, device=there)
    with pytest.raises(
        FitError, match=r"^the search .* this one ends in LogisticRegression with solver newton-cg"
    ):
        search("logreg", X, y, device=there, grid={"clf__solver": ["newton-cg"]})
    with pytest.raises(FitError, match=r"the search on meta failed: .*; leave out --device"):
        search("logreg", X, y, device=ArrayDevice("meta"))  # torch's device without any memory
    with pytest.raises(DeviceError, match=r"cuda:77 was asked for and this machine has .*cpu"):
        array_device("cuda:77")
    assert array_device("cpu") is None


def test_an_rbf_kernel_takes_standardised_roots_where_these_tell_more():
    """Long-tailed columns of unlike width: roots tame the tails, and standardising the widths."""
    rng = np.random.default_rng(0)
    y = np.arange(240) % 2
    wide = np.r_[np.ones(6), np.full(6, 30.0)]
    X = (rng.normal(size=(240, 12)) + 0.9 * y[:, None] * (wide == 1)) ** 3 * wide
    found = search("svm-rbf", X, y)
    assert found.chosen["params"]["scale"] == "signed-power-standard"
    others = search(get_head("svm-rbf").with_preparation(["standard", "l2", "signed-power"]), X, y)
    assert found.best_score > others.best_score


def threads_of_blas() -> set[int]:
    found = threadpool_info()
    return {one["num_threads"] for one in found if one["user_api"] == "blas"}


def test_linear_algebra_has_its_share_of_threads_and_gets_the_others_back():
    with limited_threads(2):
        assert threads_of_blas() == {2}
        with in_threads(2, 2) as each:
            share = max(1, joblib.cpu_count() // 2)
            assert each(lambda _: threads_of_blas(), range(2)) == [{share}] * 2
        assert threads_of_blas() == {2}


def test_values_come_back_in_order_and_a_failure_starts_no_more():
    seen = []

    def work(k):
        seen.append(k)
        if k == 1:
            raise KeyboardInterrupt
        time.sleep(0.05)

    with in_threads(2, 4) as each:
        assert each(lambda k: k * k, range(5)) == [0, 1, 4, 9, 16]
    with pytest.raises(KeyboardInterrupt), in_threads(1, 4) as each:
        each(work, range(100))
    assert len(seen) < 100
