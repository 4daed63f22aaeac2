"""Heads: found by name, path or object, and fit to be searched and saved."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.preprocessing import MinMaxScaler, Normalizer
from sklearn.svm import SVC, LinearSVC

from featx.errors import FitError
from featx.heads import HEADS, LARGE_ROWS, NORMS, for_many, for_rows, get_head, make_norm
from featx.heads.head import norm_name
from featx.model.modelfile import dump_head, load_head
from featx.selection import search


@pytest.fixture(scope="module")
def rows():
    X, y = make_classification(120, 12, n_informative=6, random_state=0)
    return X.astype(np.float32), y


@pytest.mark.parametrize("name", HEADS)
def test_every_head_fits_without_a_warning_and_takes_each_value_of_its_grid(name, rows):
    X, y = rows
    head = HEADS[name]
    target = y.astype(float) if head.task == "regression" else y
    for key, values in head.grid.items():
        for value in values:
            pipeline = head.build(0, len(y)).set_params(**{key: value})
            with warnings.catch_warnings():
                # Strength zero is ill-conditioned on purpose; deprecations must still show.
                warnings.filterwarnings("ignore", message="Ill-conditioned")
                assert pipeline.fit(X, target).predict(X).shape == y.shape
    if not head.grid:
        assert head.build(0, len(y)).fit(X, target).score(X, y) > 0.7
    assert head.when


@pytest.mark.parametrize("name", sorted(HEADS))
def test_every_head_is_saved_without_trusting_anything_of_featx(name, rows):
    X, y = rows
    for scale in HEADS[name].grid.get("scale", [None]):
        blank = HEADS[name].build(0, len(y))
        if scale is not None:
            blank.set_params(scale=clone(scale))
        fitted = blank.fit(X, y.astype(float) if HEADS[name].task == "regression" else y)
        again = load_head(dump_head(fitted), name)
        np.testing.assert_array_equal(again.predict(X), fitted.predict(X))


def test_the_head_scales_inside_its_pipeline(rows):
    X, y = rows
    fitted = HEADS["svm"].build().fit(X[:50], y[:50])
    np.testing.assert_allclose(fitted["scale"].mean_, X[:50].mean(axis=0), rtol=1e-4, atol=1e-5)


def test_a_kernel_gives_way_to_the_primal_on_many_rows():
    few, many = (for_rows(HEADS["svm"], LARGE_ROWS + k) for k in (0, 1))
    assert (few.name, many.name) == ("svm", "svm-large")
    assert isinstance(few.build(0, LARGE_ROWS)["clf"], SVC)
    assert isinstance(many.build(0, LARGE_ROWS + 1)["clf"], LinearSVC)
    own = HEADS["svm"].with_params(clf__class_weight="balanced").with_grid({"clf__C": [1.0]})
    stand = for_many(own)
    assert stand.build()["clf"].class_weight == "balanced"
    assert stand.grid == {"clf__C": [1.0]}


def test_an_unknown_head_names_the_nearest():
    with pytest.raises(FitError, match=r"no head is called 'svn'; did you mean .*svm"):
        get_head("svn")


def test_an_own_estimator_comes_by_object_and_by_path(rows):
    X, y = rows
    for what in (RandomForestClassifier(5), "sklearn.ensemble:RandomForestClassifier"):
        head = get_head(what)
        assert head.task == "classification"
        assert head.build().fit(X, y).score(X, y) > 0.8
    assert get_head("sklearn.linear_model:Lasso").task == "regression"


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("no_such_module_here:Head", "cannot be imported"),
        ("sklearn.svm:NoSuch", "cannot be imported"),
        ("math:pi", "not a scikit-learn estimator"),
        ("sklearn.preprocessing:StandardScaler", "neither a classifier nor a regressor"),
    ],
)
def test_what_is_no_head_is_refused(what, reason):
    with pytest.raises(FitError, match=reason):
        get_head(what)


@pytest.mark.parametrize("then", ["columns", "rows", "nothing"])
@pytest.mark.parametrize("norm", NORMS)
def test_normalisations_keep_float32_and_are_known_by_name(norm, then, rows):
    made = make_norm(norm, then)
    if made == "passthrough":
        return
    Z = made.fit_transform(rows[0])
    assert Z.dtype == np.float32
    alone = norm == "none" and then == "rows"
    assert norm_name(make_norm(norm, then)) == ("l2" if alone else norm)
    wide, long = then == "columns", then == "rows"
    assert np.allclose(Z.std(axis=0), 1) == (wide or (norm.endswith("standard") and not long))
    assert np.allclose(np.linalg.norm(Z, axis=1), 1) == (long or (norm == "l2" and not wide))


def test_a_step_of_another_kind_has_no_name():
    assert norm_name(MinMaxScaler()) is None


def test_preparation_joins_the_grid_and_fixed_parameters_leave_it():
    head = get_head("svm").with_preparation(["standard", "l2"], [None, 0.9])
    assert set(head.grid) == {"scale", "pca", "clf__C"}
    fixed = head.with_params(clf__C=0.5, clf__class_weight="balanced")
    assert set(fixed.grid) == {"scale", "pca"}
    assert fixed.build()["clf"].get_params()["class_weight"] == "balanced"
    assert set(get_head("svm-rbf").with_preparation(pca=[None, 5]).grid) == {
        "scale",
        "pca",
        "clf__C",
    }
    alone = get_head("svm-rbf").with_preparation(["l2"])
    assert set(alone.grid) == {"clf__C"}
    assert isinstance(alone.build()["scale"], Normalizer)
    with pytest.raises(FitError, match="did you mean standard"):
        get_head("svm").with_preparation(["standrad"])


@pytest.mark.parametrize("n_samples", [600, pytest.param(12_000, marks=pytest.mark.slow)])
def test_stochastic_gradients_come_near_the_optimum(n_samples: int) -> None:
    """Features as a network's pooling gives them: many, correlated, far from zero."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, n_samples + 2000)
    hidden = rng.normal(size=(len(y), 8)) @ rng.normal(size=(8, 120))
    X = rng.normal(scale=0.3, size=(3, 120))[y] + hidden + rng.normal(size=(len(y), 120)) + 3
    X, names = X.astype(np.float32), np.array(["a", "b", "c"])[y]
    train, test = slice(n_samples), slice(n_samples, None)
    scores = {}
    for head in ("sgd", "logreg"):
        found = search(head, X[train], names[train], folds=3)
        assert "not-converged" not in [w["code"] for w in found.warnings]
        scores[head] = np.mean(found.estimator.predict(X[test]) == names[test])
    assert scores["logreg"] > 0.8
    assert scores["sgd"] > scores["logreg"] - 0.02


def test_stochastic_gradients_step_on_rows_of_length_one(rows):
    X, y = rows[0], rows[1]
    fitted = get_head("sgd").build().fit(X, y)
    np.testing.assert_allclose(np.linalg.norm(fitted[:-1].transform(X), axis=1), 1, rtol=1e-5)
    assert fitted["clf"].tol is not None
    for n_samples, epochs in ((20_000, 15), (1_000_000, 5)):
        clf = get_head("sgd").build(n_samples=n_samples)["clf"]
        assert (clf.max_iter, clf.tol) == (epochs, None)
