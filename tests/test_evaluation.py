"""Evaluation: scikit-learn's values, intervals that cover, comparisons and decisions."""

import json

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn import metrics as sk

from featx.errors import FitError
from featx.evaluation import (
    abstain_band,
    baseline,
    compare_paired,
    evaluate,
    threshold_for_cost,
    threshold_for_precision,
)


def draw(seed, n=200, classes=3):
    rng = np.random.default_rng(seed)
    true = rng.integers(classes, size=n)
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[true]
    # Two decimals make ties, which ranking metrics must count as scikit-learn does.
    table = np.round(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), 2) + 1e-3
    return true, table / table.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 3])
def test_values_are_scikit_learns(classes):
    true, table = draw(0, classes=classes)
    predicted = table.argmax(axis=1)
    found = evaluate(true, predicted, probabilities=table, classes=range(classes), n_boot=20)
    ranked = table[:, 1] if classes == 2 else table
    one_hot = true if classes == 2 else np.eye(classes)[true]
    wanted = {
        "accuracy": sk.accuracy_score(true, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(true, predicted),
        "macro_f1": sk.f1_score(true, predicted, average="macro"),
        "roc_auc": sk.roc_auc_score(true, ranked, multi_class="ovr"),
        "average_precision": sk.average_precision_score(one_hot, ranked),
        "log_loss": sk.log_loss(true, table),
        "brier": sk.brier_score_loss(true, ranked),
    }
    assert {k: found[k]["value"] for k in wanted} == pytest.approx(wanted)
    assert found["confusion"] == sk.confusion_matrix(true, predicted).tolist()
    recall = sk.recall_score(true, predicted, average=None)
    assert [found["per_class"][str(k)]["recall"]["value"] for k in range(classes)] == pytest.approx(
        list(recall)
    )


def test_regression_values_are_scikit_learns():
    rng = np.random.default_rng(0)
    true = rng.normal(size=80)
    predicted = true + rng.normal(size=80) / 2
    found = evaluate(true, predicted, task="regression")
    assert found["r2"]["value"] == pytest.approx(sk.r2_score(true, predicted))
    assert found["mae"]["value"] == pytest.approx(sk.mean_absolute_error(true, predicted))
    assert found["rmse"]["value"] == pytest.approx(sk.root_mean_squared_error(true, predicted))
    assert all(m["low"] < m["value"] < m["high"] for m in found.values())


def test_the_interval_of_a_root_mean_square_holds_the_truth_on_heavy_tails():
    """A large error is rare; a symmetric interval on a log scale held 68 in 100."""
    rng = np.random.default_rng(0)
    truth, held = np.sqrt(3.0), 0  # of Student's t with three degrees of freedom
    for seed in range(100):
        wrong = rng.standard_t(3, 100)
        one = evaluate(np.zeros(100), wrong, task="regression", n_boot=200, seed=seed)["rmse"]
        held += one["low"] <= truth <= one["high"]
    assert held >= 85


def test_multilabel_values_are_scikit_learns():
    rng = np.random.default_rng(0)
    true = rng.integers(2, size=(60, 4))
    table = np.clip(true * 0.4 + rng.random((60, 4)) * 0.6, 0, 1)
    predicted = (table > 0.5).astype(int)
    found = evaluate(true, predicted, probabilities=table, task="multilabel", n_boot=50)
    assert found["accuracy"]["value"] == pytest.approx(sk.accuracy_score(true, predicted))
    assert found["macro_f1"]["value"] == pytest.approx(
        sk.f1_score(true, predicted, average="macro")
    )
    assert found["average_precision"]["value"] == pytest.approx(
        sk.average_precision_score(true, table)
    )


def test_a_result_is_json_and_the_same_seed_gives_it_again():
    true, table = draw(1)
    names = np.array(["ant", "bee", "cat"])
    made = [
        json.dumps(
            evaluate(names[true], names[table.argmax(1)], probabilities=table, classes=names),
            allow_nan=False,
        )
        for _ in range(2)
    ]
    assert made[0] == made[1]


@pytest.mark.slow
def test_intervals_hold_the_truth_in_93_to_97_of_100():
    # Probabilities are the true posterior, so the truth of each metric is known from many rows.
    def sample(rng, n):
        true = rng.random(n) < 0.3
        score = rng.normal(size=n) + 2 * true
        p = expit(2 * score - 2 + np.log(3 / 7))
        return true.astype(int), np.c_[1 - p, p]

    rng = np.random.default_rng(123)
    big, table = sample(rng, 1_000_000)
    names = ("accuracy", "balanced_accuracy", "roc_auc", "log_loss", "brier")
    measured = evaluate(big, table.argmax(1), probabilities=table, n_boot=0)
    truth = {k: measured[k]["value"] for k in names}
    held = dict.fromkeys(names, 0)
    for repeat in range(500):
        true, table = sample(rng, 300)
        found = evaluate(
            true, table.argmax(1), probabilities=table, n_boot=200, seed=10_000 + repeat
        )
        for k in names:
            held[k] += found[k]["low"] <= truth[k] <= found[k]["high"]
    assert all(0.93 <= count / 500 <= 0.97 for count in held.values()), held


def test_the_interval_of_a_perfect_score_is_not_a_point():
    true = np.array([0, 1] * 25)
    found = evaluate(true, true, probabilities=np.eye(2)[true])
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc"):
        assert found[name]["high"] == 1
        assert 0.85 < found[name]["low"] < 0.99


@pytest.mark.parametrize(("classes", "brier"), [(2, 1.0), (3, 2.0)])
def test_no_interval_of_a_bounded_loss_passes_its_bound(classes, brier):
    """On few rows the studentised bootstrap did: a Brier score of up to 29."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        true = rng.integers(0, classes, 5)
        table = rng.dirichlet(np.full(classes, 0.03), 5)
        found = evaluate(
            true, table.argmax(1), probabilities=table, classes=range(classes), n_boot=200
        )
        assert found["brier"]["high"] <= brier
        assert found["log_loss"]["high"] <= -np.log(np.finfo(float).eps)
        assert found["calibration_error"]["high"] <= 1


def test_rows_of_one_group_widen_the_interval():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 30)
    right = np.repeat(rng.random(20) < 0.7, 30)
    true = np.zeros(600, int)
    alone = evaluate(true, 1 - right)["accuracy"]
    together = evaluate(true, 1 - right, groups=groups)["accuracy"]
    assert together["value"] == alone["value"]
    assert together["high"] - together["low"] > 3 * (alone["high"] - alone["low"])


def test_calibration_error_tells_honest_from_overconfident_probabilities():
    rng = np.random.default_rng(0)
    p = rng.random(4000)
    true = (rng.random(4000) < p).astype(int)
    few = {"classes": [0, 1], "n_boot": 200}
    honest = evaluate(true, p > 0.5, probabilities=np.c_[1 - p, p], **few)
    pushed = expit(4 * (np.log(p) - np.log1p(-p)))
    bold = evaluate(true, p > 0.5, probabilities=np.c_[1 - pushed, pushed], **few)
    assert honest["calibration_error"]["low"] < 0.005
    assert bold["calibration_error"]["low"] > 0.1


def test_one_class_in_the_test_rows_leaves_out_what_is_undefined():
    found = evaluate([1, 1, 1], [1, 0, 1], scores=[0.9, 0.1, 0.8], classes=[0, 1])
    assert "roc_auc" not in found
    assert found["per_class"]["0"]["recall"] is None
    json.dumps(found, allow_nan=False)


def test_the_baseline_is_the_majority_of_the_training_rows():
    found = baseline([1, 1, 0], [0, 0, 0, 1])
    assert found["accuracy"]["value"] == 0.25
    assert found["class"] == "1"
    assert baseline([1.0, 3.0], [2.0, 2.5], task="regression")["mae"]["value"] == 0.25


def test_a_paired_comparison_finds_the_better_model_and_no_difference_where_there_is_none():
    rng = np.random.default_rng(0)
    true = rng.integers(2, size=400)
    worse, better = (np.where(rng.random(400) < e, 1 - true, true) for e in (0.3, 0.1))
    found = compare_paired(true, worse, better)
    assert found["difference"]["low"] > 0.1
    assert found["p_value"] < 1e-6
    same = compare_paired(true, worse, worse)
    assert same["p_value"] == 1
    assert same["difference"]["low"] < 0 < same["difference"]["high"]
    grouped = compare_paired(true, worse, better, groups=np.arange(400) // 4)
    assert grouped["difference"]["low"] > 0


def test_thresholds_and_the_abstain_band_keep_their_promise():
    true, table = draw(3, n=400, classes=2)
    p = table[:, 1]
    found = threshold_for_precision(true == 1, p, 0.8)
    called = p >= found["threshold"]
    assert (true[called] == 1).mean() == found["precision"] > found["low"] >= 0.8
    cheap = threshold_for_cost(true == 1, p, false_positive=1, false_negative=10)
    dear = threshold_for_cost(true == 1, p, false_positive=10, false_negative=1)
    assert cheap["threshold"] < dear["threshold"]
    band = abstain_band(true, p > 0.5, table, accuracy=0.8)
    answered = table.max(axis=1) >= band["confidence"]
    assert ((p > 0.5) == true)[answered].mean() == pytest.approx(band["accuracy"])
    assert answered.mean() == band["answered"] < 1


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: evaluate([], []), "no row"),
        (lambda: evaluate([0, 1], [0]), "2 labels and 1 predictions"),
        (lambda: evaluate([0, 1], [0, 1], scores=[1.0]), "2 labels and 1 scores"),
        (lambda: evaluate([0, 1], [0, 1], probabilities=[[1.0], [0.0]]), "for 2 classes"),
        (lambda: evaluate(["a", "x"], ["a", "a"], classes=["a", "b"]), "'x' of row 1"),
        (lambda: threshold_for_precision([1, 0], [0.1, 0.9], 0.9), "22 rows .* there are 2"),
        (lambda: threshold_for_precision([1], [0.1, 0.9], 0.9), "1 labels and 2 scores"),
        (lambda: abstain_band([1], [0], [[0.9, 0.1]], accuracy=0.9), "22 rows .* there are 1"),
        (lambda: baseline([], [1]), "no training row"),
    ],
)
def test_bad_input_is_one_line(call, reason):
    with pytest.raises(FitError, match=reason) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_few_mistakes_do_not_make_the_upper_end_of_a_loss_its_bound():
    """Samples without the one wrong row have next to no loss, and the bootstrap went beyond it."""
    true = np.array([0, 1] * 100)
    table = np.where(np.eye(2)[true] == 1, 0.99, 0.01)
    table[7] = [0.9, 0.1]
    found = evaluate(true, table.argmax(axis=1), probabilities=table, n_boot=300)
    assert found["accuracy"]["value"] == 199 / 200
    assert 0.02 < found["brier"]["high"] < 0.04  # 5.6 wrong rows of 200, as of a Poisson of one
    assert 0.08 < found["log_loss"]["high"] < 0.2


def test_an_answer_said_to_be_sure_has_no_interval_of_one_point():
    """Probabilities of 0 and 1 that are all right lose nothing, and the next row may lose all."""
    true = np.array([0, 1] * 25)
    found = evaluate(true, true, probabilities=np.eye(2)[true])
    assert found["brier"]["high"] == pytest.approx(3.69 / 50, rel=0.1)
    assert found["log_loss"]["high"] == pytest.approx(36 * 3.69 / 50, rel=0.1)
    assert found["calibration_error"]["high"] > 0.05


def test_intervals_near_one_hold_a_truth_of_which_one_row_in_seven_samples_is_wrong():
    """Wilson's own interval held it in 87 of 100."""
    rng = np.random.default_rng(0)
    truth, held = 0.9974, 0
    for _ in range(300):
        true = np.zeros(60, int)
        called = (rng.random(60) > truth).astype(int)
        one = evaluate(true, called, classes=[0, 1], n_boot=50)["accuracy"]
        held += one["low"] <= truth <= one["high"]
    assert held >= 0.93 * 300


def test_few_rows_without_a_mistake_do_not_promise_a_small_loss():
    """Of easy rows, thirty are often all right: the loss of a wrong one shows in no sample."""
    rng = np.random.default_rng(0)
    corners = np.eye(2) * 4 / np.sqrt(2)

    def easy(n):
        true = np.r_[0, 1, rng.integers(0, 2, n - 2)]
        return true, softmax((corners[true] + rng.normal(size=(n, 2))) @ corners.T, axis=1)

    true, table = easy(100_000)
    truth = evaluate(true, table.argmax(axis=1), probabilities=table, n_boot=2)
    held = {"log_loss": 0, "brier": 0}
    for seed in range(100):
        true, table = easy(30)
        found = evaluate(
            true, table.argmax(axis=1), probabilities=table, n_boot=200, seed=seed, classes=[0, 1]
        )
        for name in held:
            one = found[name]
            held[name] += one["low"] <= truth[name]["value"] <= one["high"]
    assert min(held.values()) >= 93
