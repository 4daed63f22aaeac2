"""Repeats and nesting: every row held out, and no score that shuffled labels could not have."""

import numpy as np
import pytest
from coloured import rows_of_three
from sklearn.datasets import load_digits

from featx.errors import FitError
from featx.evaluation import over_repeats
from featx.fitting.measuring import MeasuredHead, Measurement
from featx.fitting.samples import Samples
from featx.heads import HEADS, get_head
from featx.selection import SplitPlan


def measured(name, X, y, plan, groups=None) -> MeasuredHead:
    n = len(y)
    samples = Samples(
        rows=np.arange(n),
        y=np.asarray(y).astype(str),
        task="classification",
        tap="t",
        ids=np.arange(n).astype(str),
        digests=np.array([f"{k:032d}" for k in range(n)], "S32"),
        groups=groups,
        features=np.asarray(X, np.float32),
    )
    return Measurement(get_head(name), samples, plan).run()


@pytest.fixture(scope="module")
def rows():
    return rows_of_three()


@pytest.mark.slow
def test_nested_folds_hold_out_every_row_once_and_repeats_shuffle_again(rows):
    X, y = rows
    once = measured("ridge", X, y, SplitPlan(folds=4, nested=True))
    twice = measured("ridge", X, y, SplitPlan(folds=4, nested=True, repeats=2))
    assert sorted(once.test) == list(range(len(y)))
    # A row that no fold holds out would have no probabilities.
    np.testing.assert_allclose(once.scores.probabilities.sum(axis=1), 1)
    accuracy = once.metrics["accuracy"]
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    assert twice.metrics["accuracy"]["value"] != accuracy["value"]
    assert once.baseline["accuracy"]["value"] < 0.45


def test_repeats_keep_the_first_model_and_average_the_figures(rows):
    X, y = rows
    first = measured("ridge", X, y, SplitPlan())
    three = measured("ridge", X, y, SplitPlan(repeats=3))
    each = [measured("ridge", X, y, SplitPlan(seed=k)).metrics for k in range(3)]
    np.testing.assert_array_equal(three.test, first.test)
    values = [one["accuracy"]["value"] for one in each]
    assert three.metrics["accuracy"]["value"] == pytest.approx(np.mean(values))
    wide = three.metrics["accuracy"]["high"] - three.metrics["accuracy"]["low"]
    assert wide > np.ptp(values)


def test_the_interval_of_repeats_is_corrected_for_the_rows_they_share():
    rounds = [{"mae": v} for v in (0.3, 0.4, 0.5, 0.6)]
    found = over_repeats(rounds, 1 / 3, 100)["mae"]
    error = np.sqrt((1 / 4 + 1 / 3) * np.var([0.3, 0.4, 0.5, 0.6], ddof=1))
    assert found["high"] - found["value"] == pytest.approx(3.182446 * error, rel=1e-5)
    # Repeats that agree do not make more rows.
    same = over_repeats([{"accuracy": 0.9}] * 50, 1 / 3, 100)["accuracy"]
    assert same["high"] - same["low"] > 0.1
    assert np.isnan(over_repeats([{"accuracy": 0.9}], 1 / 3, 100)["accuracy"]["low"])
    assert set(over_repeats([{"r2": 0.1, "mae": 1.0}, {"mae": 1.2}], 1 / 3, 9)) == {"mae"}


def test_a_split_of_the_source_and_repeats_exclude_each_other(rows):
    X, y = rows
    parts = np.where(np.arange(len(y)) % 4 == 0, "test", "train")
    samples = Samples(
        np.arange(len(y)), y, "classification", "t", np.arange(len(y)), y, split=parts, features=X
    )
    with pytest.raises(FitError, match="--repeats needs others; pass a share too"):
        Measurement(get_head("ridge"), samples, SplitPlan(repeats=2))


def ends_of(name):
    """A head with the ends of its grid: a choice is made, and costs two candidates."""
    head = get_head(name)
    return head.with_grid({k: [v[0], v[-1]] for k, v in head.grid.items()})


CLASSIFIERS = [n for n, head in HEADS.items() if head.task == "classification" and not head.parts]


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_shuffled_labels_score_the_baseline(name):
    # Pictures come in threes that share a label, as neighbours do: there are 60 of them to tell.
    rng = np.random.default_rng(0)
    threes, plan = np.repeat(np.arange(60), 3), SplitPlan(nested=True, folds=3)
    name = ends_of(name)
    scores, known = [], []
    for _ in range(6):
        X, y = rng.normal(size=(60, 40))[threes], rng.permutation(np.arange(60) % 2)[threes]
        kept = measured(name, X, y, plan, groups=threes)
        scores.append(kept.metrics["accuracy"]["value"])
        known.append(kept.baseline["accuracy"]["value"])
    # Predictions of one fit are not independent: four binomial errors, not two or three.
    tolerance = 4 * np.sqrt(0.25 / (6 * 60))
    assert np.mean(scores) == pytest.approx(0.5, abs=tolerance)
    assert np.mean(scores) == pytest.approx(np.mean(known), abs=tolerance)
    # The same rows with a leak: a test that could not see one would say nothing.
    torn = measured(name, X, y, plan)
    assert torn.metrics["accuracy"]["value"] > 0.5 + 2 * tolerance


@pytest.mark.slow
@pytest.mark.parametrize("name", ["svm", "svm-rbf", "logreg", "knn"])
def test_shuffled_labels_of_unequal_classes_score_no_more_than_the_commonest(name):
    rng = np.random.default_rng(1)
    y = rng.permutation(np.repeat([0, 1, 2], [120, 50, 30]))
    plan = SplitPlan(nested=True, folds=3)
    found = measured(ends_of(name), rng.normal(size=(200, 30)), y, plan)
    assert found.baseline["accuracy"]["value"] == pytest.approx(0.6)
    assert found.metrics["accuracy"]["value"] < 0.6 + 3 * np.sqrt(0.6 * 0.4 / 200)
    assert found.metrics["balanced_accuracy"]["value"] < 1 / 3 + 0.1


@pytest.mark.slow
def test_digits_reach_98_percent():
    X, y = load_digits(return_X_y=True)
    found = measured("svm-rbf", X, y, SplitPlan(nested=True))
    assert found.metrics["accuracy"]["value"] >= 0.98
