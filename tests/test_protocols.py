"""Each protocol keeps its paper's rules, and sees the test rows once."""

import numpy as np
import pytest
from sklearn.datasets import load_digits, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC

from featx.errors import FitError
from featx.protocols import PROTOCOLS, run_protocol
from featx.protocols.machines import draw_k
from featx.protocols.neighbours import knn_vote
from featx.protocols.rules import ap11, ap_interpolated, l2, mean_precision, signed_power


@pytest.fixture(scope="module")
def rows():
    X, y = make_classification(
        260, 12, n_informative=6, n_classes=3, flip_y=0.15, class_sep=0.8, random_state=0
    )
    split = np.array(["train"] * 140 + ["validation"] * 60 + ["test"] * 60)
    return X.astype(np.float32), y, split


CHEAP = [pytest.param(n, marks=pytest.mark.slow) if n == "vissl-low-shot" else n for n in PROTOCOLS]


@pytest.mark.parametrize("name", CHEAP)
def test_each_protocol_beats_chance_and_gives_an_interval(rows, name):
    X, y, split = rows
    found = run_protocol(name, X, y, split)
    figure = found["figure"]
    assert figure["low"] < figure["value"] < figure["high"]
    assert figure["value"] > 0.5
    assert found["n_test"] == 60


@pytest.mark.parametrize("name", CHEAP)
def test_test_labels_decide_no_choice(rows, name):
    X, y, split = rows
    other = y.copy()
    other[split == "test"] = np.random.default_rng(0).permutation(other[split == "test"])
    first, second = run_protocol(name, X, y, split), run_protocol(name, X, other, split)
    assert first["chosen"] == second["chosen"]
    assert first["tried"] == second["tried"]
    assert first["figure"]["value"] > second["figure"]["value"]


def test_the_values_are_the_papers():
    kornblith = np.array(PROTOCOLS["kornblith"].values)
    assert len(kornblith) == 45
    np.testing.assert_allclose(kornblith[[0, -1]], [1e-6, 1e5])
    np.testing.assert_allclose(np.diff(np.log10(kornblith)), 0.25)
    clip = np.array(PROTOCOLS["clip"].values)
    assert len(clip) == 96 + 1  # 96 steps, both ends
    np.testing.assert_allclose(np.diff(np.log10(clip)), 1 / 8)
    assert PROTOCOLS["clip"].max_iter == 1000
    assert PROTOCOLS["dinov2-logreg"].values == PROTOCOLS["kornblith"].values
    assert PROTOCOLS["dinov2-knn"].values == (10, 20, 100, 200)
    vissl = PROTOCOLS["vissl-svm"].values
    assert vissl[:2] == (0.01, 0.1)
    assert vissl[2:] == tuple(0.5**k for k in range(4, 20))


def test_kornblith_chooses_on_validation_rows_and_refits_on_both(rows):
    X, y, split = rows
    found = run_protocol("kornblith", X, y, split)
    assert len(found["tried"]) == 45
    scores = dict(map(tuple, found["tried"]))
    assert scores[found["chosen"]["C"]] == max(scores.values())
    assert found["chosen"]["C"] == pytest.approx(1 / found["chosen"]["lambda"])
    assert (found["n_train"], found["n_validation"]) == (200, 60)
    both, test = split != "test", split == "test"
    fit = LogisticRegression(C=found["chosen"]["C"], max_iter=1000).fit(X[both], y[both])
    assert found["figure"]["value"] == pytest.approx(fit.score(X[test], y[test]), abs=0.02)


def test_a_class_that_only_validation_rows_have_is_learnt_in_the_refit(rows):
    X, y, split = rows
    y = y.copy()
    X = X.copy()
    rare = [*np.flatnonzero(split == "validation")[:20].tolist(), len(y) - 1]
    y[rare], X[rare] = 7, 9
    for name in ("kornblith", "clip"):
        assert run_protocol(name, X, y, split)["figure"]["value"] > 0.5


def test_kornblith_is_also_measured_by_class_and_by_eleven_points(rows):
    X, y, split = rows
    assert run_protocol("kornblith", X, y, split)["metric"] == "accuracy"
    each = run_protocol("kornblith", X, y, split, metric="per-class")
    assert each["metric"] == "balanced_accuracy"
    assert each["figure"]["value"] == each["measured"]["balanced_accuracy"]["value"]
    assert run_protocol("kornblith", X, y, split, metric="11-point")["metric"] == "map11"
    with pytest.raises(FitError, match="--metric is 'pets'; expected one of accuracy, per-class"):
        run_protocol("kornblith", X, y, split, metric="pets")
    with pytest.raises(FitError, match="--protocol clip has no --metric; leave it out"):
        run_protocol("clip", X, y, split, metric="per-class")


def test_eleven_points_of_a_ranking_by_hand():
    truth, scores = np.array([True, False, True, False]), np.array([4.0, 3.0, 2.0, 1.0])
    # Precision 1 up to a recall of one half (six points), then 2/3 (five points).
    assert ap11(truth, scores)(np.ones((1, 4)))[0] == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_labels_that_a_row_may_share_are_measured_one_by_one(rows):
    X, y, split = rows
    several = np.stack([y == 0, y != 2], axis=1).astype(int)
    for name in ("kornblith", "vissl-svm", "razavian"):
        assert 0.5 < run_protocol(name, X, several, split)["figure"]["value"] < 1
    with pytest.raises(FitError, match="clip is for one label a row"):
        run_protocol("clip", X, several, split)


def test_clip_goes_from_seven_seeds_to_an_eighth_of_a_decade(rows):
    X, y, split = rows
    found = run_protocol("clip", X, y, split)
    tried = np.array([-np.log10(c) for c, _ in found["tried"]])
    for seed in (-6, -4, -2, 0, 2, 4, 6):
        assert np.abs(tried - seed).min() < 1e-9
    assert 7 < len(tried) <= 7 + 4 * 2
    others = tried[np.abs(tried + np.log10(found["chosen"]["C"])) > 1e-9]
    assert np.abs(others + np.log10(found["chosen"]["C"])).min() == pytest.approx(1 / 8)


def test_dinov2_holds_out_a_tenth_of_the_training_rows(rows):
    X, y, split = rows
    without = np.where(split == "validation", "train", split)
    found = run_protocol("dinov2-logreg", X, y, without)
    assert (found["n_train"], found["n_validation"], found["n_test"]) == (200, 20, 60)
    assert found == run_protocol("dinov2-logreg", X, y, without)
    assert found["tried"] != run_protocol("dinov2-logreg", X, y, without, seed=1)["tried"]
    short = without != "test"
    short[-5:] = True  # 205 rows to choose from: a tenth is 20, rounded down
    more = np.where(short, "train", "test")
    assert run_protocol("dinov2-logreg", X, y, more)["n_validation"] == 20


def test_neighbours_vote_with_their_similarity(rows):
    X, y, _ = rows
    Z = l2(X)
    called = knn_vote(Z[:200], y[:200], Z[200:], [10, 100])
    for k in (10, 100):
        peer = KNeighborsClassifier(
            k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
        ).fit(Z[:200], y[:200])
        assert np.mean(called[k] == peer.predict(Z[200:])) > 0.99


def test_neighbours_are_twenty_unless_validation_rows_say_otherwise(rows):
    X, y, split = rows
    without = np.where(split == "validation", "train", split)
    plain = run_protocol("dinov2-knn", X, y, without)
    assert plain["chosen"] == {"k": 20, "temperature": 0.07}
    assert plain["figure"] == plain["by_k"]["20"]
    assert set(plain["by_k"]) == {"10", "20", "100", "200"}
    scores = dict(map(tuple, run_protocol("dinov2-knn", X, y, split)["tried"]))
    assert set(scores) == {10, 20, 100}  # 140 training rows have no 200 neighbours


def test_length_does_not_matter_where_the_paper_normalises(rows):
    X, y, split = rows
    longer = X * np.random.default_rng(0).uniform(1, 9, (len(X), 1)).astype(np.float32)
    for name in ("dinov2-knn", "vissl-svm", "razavian"):
        first, second = (run_protocol(name, Z, y, split)["figure"]["value"] for Z in (X, longer))
        assert first == pytest.approx(second, abs=1e-3)


def test_vissl_chooses_a_cost_for_each_class_and_weighs_positives_twice(rows):
    X, y, split = rows
    found = run_protocol("vissl-svm", X, y, split)
    assert len(found["chosen"]["C"]) == len(found["per_class"]) == 3
    assert set(found["chosen"]["C"]) <= set(PROTOCOLS["vissl-svm"].values)
    train, test, Z = split != "test", split == "test", l2(X)
    peer = LinearSVC(
        C=found["chosen"]["C"][1], class_weight={1: 2, 0: 1}, max_iter=2000, random_state=0
    ).fit(Z[train], (y == 1)[train].astype(int))
    wanted = interpolated((y == 1)[test], peer.decision_function(Z[test]))
    assert found["per_class"][1]["value"] == pytest.approx(wanted, abs=1e-3)
    assert wanted > average_precision_score((y == 1)[test], peer.decision_function(Z[test]))


def test_vissl_chooses_by_unshuffled_folds(rows):
    X, y, split = rows
    first, second = (run_protocol("vissl-svm", X, y, split, seed=seed) for seed in (0, 1))
    assert first["chosen"] == second["chosen"]
    train, Z = split != "test", l2(X)
    means = [
        cross_val_score(
            LinearSVC(C=cost, class_weight={1: 2, 0: 1}, max_iter=2000, random_state=0),
            Z[train],
            (y == 2)[train].astype(int),
            cv=3,
            scoring="average_precision",
        ).mean()
        for cost in PROTOCOLS["vissl-svm"].values
    ]
    assert first["chosen"]["C"][2] == PROTOCOLS["vissl-svm"].values[int(np.argmax(means))]


def interpolated(truth, scores):
    """VISSL's average precision, written out: steps of recall times the best precision beyond."""
    order = np.argsort(-scores)
    hits = np.cumsum(truth[order])
    precision, recall = hits / np.arange(1, len(truth) + 1), hits / truth.sum()
    steps = np.diff(np.r_[0, recall])
    return sum(step * precision[k:].max() for k, step in enumerate(steps))


def test_interpolated_precision_is_never_below_the_plain_one():
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth, scores = rng.random(40) < 0.3, rng.normal(size=40)
        found = ap_interpolated(truth, scores)(np.ones((1, 40)))[0]
        assert found == pytest.approx(interpolated(truth, scores))
        assert found >= average_precision_score(truth, scores) - 1e-12
        # Weights count rows as often as they say.
        twice = np.repeat(np.arange(40), 1 + np.arange(40) % 3)
        weighted = ap_interpolated(truth, scores)(1.0 + np.arange(40)[None] % 3)[0]
        again = ap_interpolated(truth[twice], scores[twice])(np.ones((1, len(twice))))[0]
        assert weighted == pytest.approx(again)


def test_low_shot_draws_k_of_each_class_five_times():
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    truth = y[:, None] == np.arange(10)
    drawn = draw_k(truth, np.arange(1000), 4, rng)
    np.testing.assert_array_equal(np.bincount(y[drawn]), np.full(10, 4))
    assert drawn.max() < 1000
    keep = y < 3
    split = np.where(np.arange(keep.sum()) % 3 == 0, "test", "train")
    shots = (1, 8, 1000)
    found = run_protocol("vissl-low-shot", X[keep], y[keep], split, shots=shots, episodes=3)
    assert list(found["by_k"]) == ["1", "8"]  # no class has 1000
    assert found["left_out"] == [1000]
    assert found["by_k"]["1"]["value"] < found["by_k"]["8"]["value"] <= 1
    assert found["by_k"]["1"]["lowest"] < found["by_k"]["1"]["highest"]
    assert found["chosen"]["episodes"] == 3


@pytest.mark.slow
def test_k_shot_intervals_hold_the_mean_over_all_draws_and_rows():
    """The truth is the mean over many draws on many new rows."""

    def draw(n, seed):
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 2, n)
        return (rng.normal(size=(n, 8)) + 1.5 * y[:, None]).astype(np.float32), y

    X, y = draw(6000, 1)
    parts = np.where(np.arange(6000) < 2000, "train", "test")
    asked = {"shots": [2], "episodes": 200}
    truth = run_protocol("k-shot", X, y, parts, **asked)["figure"]["value"]
    held = 0
    for seed in range(20):
        X, y = draw(300, 10 + seed)
        parts = np.where(np.arange(300) < 200, "train", "test")
        asked = {"shots": [2], "episodes": 12}
        figure = run_protocol("k-shot", X, y, parts, seed=seed, **asked)["figure"]
        held += figure["low"] <= truth <= figure["high"]
    assert held >= 17


def test_k_shot_grows_with_the_rows_and_says_how_far_draws_lie_apart():
    X, y = load_digits(return_X_y=True)
    parts = np.where(np.arange(len(y)) % 3 == 0, "test", "train")
    found = run_protocol("k-shot", X, y, parts, shots=[1, 8], episodes=10)
    one, eight = found["by_k"]["1"], found["by_k"]["8"]
    assert one["high"] < eight["low"]
    assert one["lowest"] < one["low"] < one["value"] < one["high"] < one["highest"]
    assert eight["highest"] - eight["lowest"] < one["highest"] - one["lowest"]
    assert found["figure"] == {end: eight[end] for end in ("value", "low", "high")}
    assert found["n_train"] == 80
    again = run_protocol("k-shot", X, y, parts, shots=[1, 8], episodes=10)
    assert again == found


def test_razavian_averages_the_scores_of_the_views(rows):
    X, y, split = rows
    rng = np.random.default_rng(0)
    views = X[:, None] + rng.normal(0, 2, (len(X), 16, X.shape[1])).astype(np.float32)
    one = run_protocol("razavian", views[:, 0], y, split)
    many = run_protocol("razavian", views, y, split)
    assert (one["chosen"]["views"], many["chosen"]["views"]) == (1, 16)
    assert many["figure"]["value"] > one["figure"]["value"]
    assert many["n_train"] == 200  # images, not views


def test_normalisation_keeps_zeros_and_signs():
    np.testing.assert_allclose(l2(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]])
    np.testing.assert_allclose(signed_power(np.array([4.0, -9.0])), [2, -3])


def test_a_class_without_a_positive_row_is_left_out_of_the_mean():
    truth = np.array([[1, 0], [0, 0], [1, 0]], dtype=bool)
    assert mean_precision(ap11, truth, np.array([[3.0, 1], [1, 2], [2, 3]])) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "kornblit"}, "no protocol is called 'kornblit'; did you mean kornblith"),
        ({"X": np.zeros((260, 2, 3))}, r"clip takes features of shape .*got \(260, 2, 3\)"),
        ({"X": np.full((260, 3), np.nan)}, "NaN"),
        ({"y": np.zeros(260)}, "the training rows hold one class"),
        ({"y": np.zeros(9)}, "260 rows of features and 9 labels"),
        ({"split": ["train"] * 260}, "holds no test row"),
        ({"split": ["exam"] * 260}, "split of row 0 is 'exam'"),
        ({"name": "k-shot", "shots": [0, 1]}, "--shots is 0,1; expected 1 or more"),
        ({"name": "k-shot", "shots": [900]}, "training rows; 900 of each class take 900"),
        ({"name": "k-shot", "episodes": 1}, "--episodes is 1; an interval takes 2 or more"),
        ({"shots": [1]}, "--protocol clip has no --shots; leave it out"),
    ],
)
def test_what_cannot_be_judged_is_one_line(rows, change, message):
    X, y, split = rows
    given = {"name": "clip", "X": X, "y": y, "split": split} | change
    with pytest.raises(FitError, match=message) as caught:
        run_protocol(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_groups_of_test_rows_are_resampled_whole(rows, name):
    X, y, split = rows
    # Each row four times over is no more than it was.
    X, y, split = (np.repeat(values, 4, axis=0) for values in (X, y, split))
    groups = np.arange(len(y)) // 4
    asked = {"episodes": 3, "shots": [8]} if "shots" in PROTOCOLS[name].options else {}
    plain, grouped = (
        run_protocol(name, X, y, split, groups=g, **asked)["figure"] for g in (None, groups)
    )
    assert grouped["value"] == plain["value"]
    assert grouped["low"] < plain["low"]
