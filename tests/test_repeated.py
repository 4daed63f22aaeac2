"""Repeats and nesting: every row held out, and no score that shuffled labels could not have."""

import numpy as np
import pytest
from sklearn.datasets import make_classification

from featx.heads import HEADS
from featx.selection import SplitPlan, cross_evaluate


@pytest.fixture(scope="module")
def rows():
    X, y = make_classification(
        240, 40, n_informative=8, n_classes=3, class_sep=0.8, flip_y=0.1, random_state=0
    )
    return (X * 3 + 5).astype(np.float32), y


def test_nested_folds_hold_out_every_row_once_and_repeats_shuffle_again(rows):
    X, y = rows
    found = cross_evaluate("ridge", X, y, SplitPlan(folds=4, nested=True, repeats=2))
    assert [r["fold"] for r in found.rounds] == [0, 1, 2, 3] * 2
    once = np.concatenate([test for test, _, _ in found.held_out[:4]])
    assert sorted(once) == list(range(len(y)))
    assert found.metrics["accuracy"]["low"] < found.metrics["accuracy"]["value"]
    assert found.baseline["accuracy"]["value"] < 0.45


CLASSIFIERS = [n for n, head in HEADS.items() if head.task == "classification" and not head.parts]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_shuffled_labels_score_the_baseline(name):
    # Pictures come in threes that share a label, as neighbours do: there are 60 of them to tell.
    rng = np.random.default_rng(0)
    threes, plan = np.repeat(np.arange(60), 3), SplitPlan(nested=True, folds=3)
    scores, known = [], []
    for _ in range(6):
        X, y = rng.normal(size=(60, 40))[threes], rng.permutation(np.arange(60) % 2)[threes]
        kept = cross_evaluate(name, X, y, plan, groups=threes, probabilities=False)
        scores.append(kept.metrics["accuracy"]["value"])
        known.append(kept.baseline["accuracy"]["value"])
    # Predictions of one fit are not independent: four binomial errors, not two or three.
    tolerance = 4 * np.sqrt(0.25 / (6 * 60))
    assert np.mean(scores) == pytest.approx(0.5, abs=tolerance)
    assert np.mean(scores) == pytest.approx(np.mean(known), abs=tolerance)
    # The same rows with a leak: a test that could not see one would say nothing.
    torn = cross_evaluate(name, X, y, plan, probabilities=False)
    assert torn.metrics["accuracy"]["value"] > 0.5 + 2 * tolerance


@pytest.mark.parametrize("name", ["svm", "svm-rbf", "logreg", "knn"])
def test_shuffled_labels_of_unequal_classes_score_no_more_than_the_commonest(name):
    rng = np.random.default_rng(1)
    y = rng.permutation(np.repeat([0, 1, 2], [120, 50, 30]))
    found = cross_evaluate(
        name, rng.normal(size=(200, 30)), y, SplitPlan(nested=True), probabilities=False
    )
    assert found.baseline["accuracy"]["value"] == pytest.approx(0.6)
    assert found.metrics["accuracy"]["value"] < 0.6 + 3 * np.sqrt(0.6 * 0.4 / 200)
    assert found.metrics["balanced_accuracy"]["value"] < 1 / 3 + 0.1
