"""What a fit is asked for reaches every part of it: groups, weights, shares, folds."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy.special import expit, stdtrit
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.svm import LinearSVC

from featx import evaluate as evaluate_model
from featx import fit, write_cache
from featx.errors import FitError
from featx.evaluation import baseline, evaluate
from featx.evaluation.conformal import coverage_of, set_cuts
from featx.evaluation.resampling import draw_weights, wilson
from featx.fitting.contenders import Contender
from featx.fitting.deciding import DecisionTarget, HeldOutPredictions, choose, held_out
from featx.fitting.findings import ReviewedRow
from featx.fitting.leaks import barred_rows, without_seen
from featx.fitting.measuring import MeasuredHead, Measurement
from featx.fitting.options import FitOptions
from featx.fitting.promises import set_sets, set_thresholds
from featx.fitting.samples import Samples
from featx.fitting.streamed import measurement
from featx.heads import Head, get_head
from featx.model.thresholds import Scores, worth
from featx.selection import SplitPlan, search

N, SIZE = 120, 4
GROUPS = np.arange(N) // SIZE


class Witness(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Remembers what each fit was taught, and what it was asked about afterwards.

    The first column is the number of the row, the second that of its group.
    """

    torn: ClassVar[set[float]] = set()
    asked: ClassVar[int] = 0

    def fit(self, X: Any, y: Any = None) -> Witness:
        self.rows_, self.groups_ = set(X[:, 0]), set(X[:, 1])
        self.n_features_in_ = X.shape[1]
        return self

    def fit_transform(self, X: Any, y: Any = None, **_: Any) -> Any:
        return self.fit(X).drop(X)

    def transform(self, X: Any) -> Any:
        new = np.array([row not in self.rows_ for row in X[:, 0]])
        Witness.asked += int(new.sum())
        Witness.torn |= self.groups_ & set(X[new, 1])
        return self.drop(X)

    def drop(self, X: Any) -> Any:
        return X[:, 2:]


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    Witness.torn, Witness.asked = set(), 0
    Weighed.weights = []


def samples_of(**changes: Any) -> Samples:
    """Groups of four rows with one label each, which noise does not tell."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat(["blue", "red"], N // SIZE // 2))[GROUPS]
    X = np.c_[np.arange(N), GROUPS, rng.normal(size=(N, 3))].astype(np.float32)
    values = {
        "rows": np.arange(N),
        "y": y,
        "task": "classification",
        "tap": "t",
        "ids": np.arange(N).astype(str),
        "digests": np.array([f"{k:064d}" for k in range(N)], "S64"),
        "groups": np.array([f"g{k:02d}" for k in GROUPS]),
        "features": X,
    }
    return Samples(**(values | changes))


def head_of(*steps: tuple[str, Any]) -> Head:
    return Head("own", "classification", "", lambda seed, n: clone(Pipeline(list(steps))))


def watched(clf: Any) -> Head:
    return head_of(("mark", Witness()), ("clf", clf))


def run(head: Head, samples: Samples, **plan: Any) -> MeasuredHead:
    return Measurement(head, samples, SplitPlan(**plan)).run()


def assert_whole(measured: MeasuredHead) -> None:
    """No part that learnt of a group was asked about other rows of it."""
    assert Witness.asked
    assert not Witness.torn
    assert measured.metrics["accuracy"]["value"] < 0.75  # one label a group: memory would tell


HEADS = {"logreg": LogisticRegression(), "calibrated": LinearSVC()}


@pytest.mark.parametrize("plan", [{}, {"nested": True}, {"repeats": 2}, {"fit_on": "train"}])
@pytest.mark.parametrize("clf", list(HEADS))
def test_groups_reach_the_split_the_search_and_the_calibration(
    clf: str, plan: dict[str, Any]
) -> None:
    measured = run(watched(HEADS[clf]), samples_of(), folds=3, **plan)
    assert_whole(measured)
    if clf == "calibrated":  # by the folds of the search, which hold out every row once
        assert measured.kept.estimator.cv == 3


def test_without_groups_the_same_rows_are_torn() -> None:
    """A witness that could not see it would say nothing."""
    run(watched(HEADS["logreg"]), samples_of(groups=None), folds=3)
    assert Witness.torn


@pytest.mark.parametrize("clf", list(HEADS))
def test_groups_reach_the_calibration_where_the_source_gives_the_split(clf: str) -> None:
    """The validation rows are the one fold of the search; a scale needs folds of its own."""
    part = np.array(["train", "train", "validation", "test"], object)[GROUPS % 4]
    measured = run(watched(HEADS[clf]), samples_of(split=part), folds=3)
    assert measured.found.folds == 1
    assert measured.found.calibrated is (clf == "calibrated")
    assert sorted(measured.train) == np.flatnonzero(part != "test").tolist()
    assert_whole(measured)


def test_validation_rows_choose_and_nothing_else_does() -> None:
    part = np.array(["train", "train", "validation", "test"], object)[GROUPS % 4]
    head = watched(HEADS["logreg"]).with_grid({"clf__C": [0.01, 1.0]})
    measured = run(head, samples_of(split=part))
    train, held = (np.flatnonzero(part == name) for name in ("train", "validation"))
    X, y = samples_of().features, samples_of().y
    for row in measured.found.table:
        clf = LogisticRegression(C=row["params"]["clf__C"]).fit(X[train, 2:], y[train])
        assert row["scores"] == [clf.score(X[held, 2:], y[held])]


@pytest.mark.parametrize("clf", list(HEADS))
def test_groups_reach_the_rows_that_thresholds_are_chosen_on(clf: str) -> None:
    samples, head = samples_of(), watched(HEADS[clf])
    measured = run(head, samples, folds=3)
    Witness.torn, Witness.asked = set(), 0
    held = held_out(head, measured.kept, samples, measured.trained, 3, 0)
    assert_whole(measured)
    assert Witness.asked >= N
    np.testing.assert_array_equal(held.groups, GROUPS)
    np.testing.assert_array_equal(held.y, samples.y)


class Weighed(LogisticRegression):  # type: ignore[misc]
    """Keeps, for the whole class, the rows of each fit and their weights; fits on the others."""

    weights: ClassVar[list[Any]] = []

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Weighed:
        Weighed.weights.append((X[:, 0].astype(int), sample_weight))
        super().fit(X[:, 2:], y, sample_weight=sample_weight)
        self.n_features_in_ = X.shape[1]
        return self

    def decision_function(self, X: Any) -> Any:
        return X[:, 2:] @ self.coef_[0] + self.intercept_[0]

    def predict_proba(self, X: Any) -> Any:
        p = expit(self.decision_function(X))
        return np.c_[1 - p, p]


@pytest.mark.parametrize("plan", [{}, {"nested": True}, {"repeats": 2}])
@pytest.mark.parametrize("groups", [None, GROUPS])
def test_weights_reach_every_fit(plan: dict[str, Any], groups: Any) -> None:
    weights = np.random.default_rng(1).uniform(0.5, 2, N)
    samples = samples_of(weights=weights, groups=groups)
    head = head_of(("clf", Weighed()))
    measured = Measurement(head, samples, SplitPlan(folds=3, **plan))
    found = measured.run()
    held_out(head, found.kept, samples, found.trained, 3, 0)
    fits = 4 * 3 if "nested" in plan else 5
    assert len(Weighed.weights) >= fits + 10
    for rows, given in Weighed.weights:
        np.testing.assert_array_equal(given, weights[rows])


def test_weights_reach_a_calibration_with_the_split_of_the_source() -> None:
    weights = np.random.default_rng(1).uniform(0.5, 2, N)
    part = np.array(["train", "train", "validation", "test"], object)[GROUPS % 4]

    class Blunt(Weighed):
        predict_proba = property()  # without it, the head is calibrated

    found = run(
        head_of(("clf", Blunt())),
        samples_of(weights=weights, split=part, groups=None),
    )
    assert found.found.calibrated
    assert len(Weighed.weights) >= 7
    for rows, given in Weighed.weights:
        np.testing.assert_array_equal(given, weights[rows])


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_the_share_of_test_rows_is_the_one_asked_for(tmp_path: Path, share: float) -> None:
    samples = samples_of(groups=None)
    write_cache(tmp_path / "c.h5", samples.features, labels=samples.y.tolist())
    found = fit(tmp_path / "c.h5", "ridge", split=share, folds=2)
    assert (found.n_test, found.n_train) == (int(share * N), N - int(share * N))


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_the_interval_of_repeats_is_that_of_its_share_and_its_groups(groups: Any) -> None:
    """Nadeau and Bengio 2003, by hand: of a loss, and of a share that is always right."""
    n, samples = 3, samples_of(groups=groups)
    head = get_head("logreg").with_grid({"clf__C": [0.1]})
    plan: dict[str, Any] = {"split": 0.4, "folds": 2, "fit_on": "train"}
    each = [run(head, samples, seed=k, **plan) for k in range(n)]
    values = np.array([one.metrics["log_loss"]["value"] for one in each])
    ratio = len(each[0].test) / len(each[0].train)
    error = math.sqrt((1 / n + ratio) * values.var(ddof=1))
    figure = run(head, samples, repeats=n, **plan).metrics["log_loss"]
    assert figure["value"] == pytest.approx(values.mean())
    assert figure["high"] - figure["value"] == pytest.approx(stdtrit(n - 1, 0.975) * error)
    y = samples.y
    X = np.c_[y == "red", np.random.default_rng(0).normal(size=(N, 2)) / 9].astype(np.float32)
    right = run(head, samples_of(groups=groups, features=X), repeats=n, **plan)
    tested = np.concatenate([one.test for one in each])  # the split goes by labels alone
    units = min(N, n * len(each[0].test)) if groups is None else len(np.unique(GROUPS[tested]))
    wanted = wilson(1.0, units, float(stdtrit(n - 1, 0.975)))
    assert right.metrics["accuracy"]["value"] == 1
    assert right.metrics["accuracy"]["low"] == pytest.approx(wanted["low"])


@pytest.mark.parametrize("plan", [{}, {"nested": True}])
def test_groups_reach_the_intervals_of_figures_and_of_the_baseline(plan: dict[str, Any]) -> None:
    samples = samples_of()
    found = run(get_head("logreg").with_grid({"clf__C": [0.1]}), samples, folds=3, **plan)
    y, test = samples.y, found.test
    groups = GROUPS[test]
    whole = evaluate(
        y[test], found.scores.predicted, probabilities=found.scores.probabilities, groups=groups
    )
    assert found.metrics == whole
    known = baseline(y[found.train], y[test], groups=groups)
    assert found.baseline == known
    alone = evaluate(y[test], found.scores.predicted)
    assert whole["accuracy"]["low"] != alone["accuracy"]["low"]


def test_groups_reach_the_figures_of_an_evaluation_and_of_its_rule(tmp_path: Path) -> None:
    samples = samples_of()
    X, y = samples.features[:, 2:] + 0.8 * (samples.y == "red")[:, None], samples.y
    columns = {"patient": GROUPS.astype(str)}
    names = [f"r{k}" for k in range(N)]
    write_cache(tmp_path / "c.h5", X, ids=names, labels=y.tolist(), columns=columns)
    model = tmp_path / "m.featx"
    fit(tmp_path / "c.h5", "logreg", out=model, fit_on="train", cost="1:1", groups="patient")
    plain, whole = (evaluate_model(model, tmp_path / "c.h5", groups=g) for g in (None, "patient"))
    assert plain.test["accuracy"]["value"] == whole.test["accuracy"]["value"]
    assert plain.test["accuracy"]["low"] != whole.test["accuracy"]["low"]
    assert plain.baseline["accuracy"]["low"] != whole.baseline["accuracy"]["low"]
    rules = [one.decisions["test"]["accuracy"] for one in (plain, whole)]
    assert rules[0]["value"] == rules[1]["value"]
    assert rules[0]["low"] != rules[1]["low"]
    # The rule was measured in the fit on the same rows, groups kept.
    fitted = fit(tmp_path / "c.h5", "logreg", fit_on="train", cost="1:1", groups="patient")
    assert fitted.decisions["test"]["accuracy"] == rules[1]


def test_five_groups_that_are_all_right_are_five_rows() -> None:
    y = np.array(["a", "b"] * 50)
    groups = np.arange(100) // 20
    found = evaluate(y, y, probabilities=np.eye(2)[(y == "b").astype(int)], groups=groups)
    z = float(stdtrit(4, 0.975))
    low = 1 / (1 + z**2 / 5)  # Wilson's interval of five of five
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc"):
        assert found[name] == {"value": 1.0, "low": pytest.approx(low), "high": 1.0}
    for one in found["per_class"].values():
        assert one["support"] == 50
        assert one["recall"]["low"] == pytest.approx(low)
    several = evaluate(np.eye(2)[[0, 1] * 50], np.eye(2)[[0, 1] * 50], task="multilabel",
                       groups=groups)  # fmt: skip
    assert several["accuracy"]["low"] == pytest.approx(low)
    assert several["per_class"]["0"]["recall"]["low"] == pytest.approx(low)
    rule = {"by": "abstain", "confidence": 0.0}
    table = np.eye(2)[[0, 1] * 50]
    told = worth(rule, ["a", "b"], y, Scores(y, table), groups)
    assert told["accuracy"]["low"] == pytest.approx(low)
    assert told["answered"]["low"] == pytest.approx(wilson(1.0, 5)["low"])


def test_groups_count_as_rows_for_each_class_of_a_promise() -> None:
    """Twenty groups of ten rows: 200 rows would do for 0.9, and 20 groups do not."""
    y = np.repeat(["blue", "red"], 200)
    table = np.repeat([[0.9, 0.1], [0.1, 0.9]], 200, axis=0)
    groups = np.arange(400) // 10
    wanted = DecisionTarget.of(precision=0.9)
    found, _ = choose(wanted, HeldOutPredictions(y, y.copy(), table), samples_of())
    assert all(one["answered"] == 1 for one in found["classes"].values())
    with pytest.raises(FitError, match=r"it takes 29 groups .* and there are 20"):
        choose(wanted, HeldOutPredictions(y, y.copy(), table, groups), samples_of())


@pytest.mark.parametrize(("n", "reached"), [(28, False), (29, True)])
def test_each_class_of_several_has_its_part_of_the_confidence(n: int, reached: bool) -> None:
    """Of two classes each is tested at 0.95: 29 rows, all right, promise 0.9, and 28 do not."""
    y = np.repeat(["blue", "red"], n)
    held = HeldOutPredictions(y, y.copy(), np.repeat([[0.9, 0.1], [0.1, 0.9]], n, axis=0))
    found, _ = choose(
        DecisionTarget.of(precision=0.9, confidence=0.9), held, samples_of(), must=False
    )
    assert [one is not None for one in found["classes"].values()] == [reached] * 2


def test_a_search_keeps_one_standard_error_groups_and_seed() -> None:
    """`fit` hands them on as they are: the same search by hand chooses the same."""
    samples = samples_of()
    X = samples.features[:, 2:] + 0.8 * (samples.y == "red")[:, None]
    samples = samples_of(features=X.astype(np.float32))
    head = get_head("logreg").with_grid({"clf__C": [1e-4, 1e-3, 1e-2, 0.1, 1.0]})
    chosen = []
    for simple in (False, True):
        plan = SplitPlan(folds=3, seed=5, fit_on="train")
        found = Measurement(head, samples, plan, one_standard_error=simple).run()
        train = found.train
        own = search(
            head, X[train].astype(np.float32), samples.y[train], groups=samples.groups[train],
            folds=3, seed=5, one_standard_error=simple,
        )  # fmt: skip
        assert found.found.table == own.table
        assert found.found.best_params == own.best_params
        chosen.append(own.best_params["clf__C"])
    assert chosen[0] != chosen[1]


def test_rows_of_a_group_that_the_network_saw_are_barred_with_it() -> None:
    seen = np.zeros(N, bool)
    seen[[5, 41]] = True
    whole = np.isin(GROUPS, [1, 10])
    np.testing.assert_array_equal(barred_rows(samples_of(seen=seen)), whole)
    np.testing.assert_array_equal(barred_rows(samples_of(seen=seen, groups=None)), seen)
    assert not barred_rows(samples_of()).any()
    kept = without_seen(samples_of(seen=seen), 0.25, 0)
    assert kept.split is not None
    assert set(kept.split[whole]) == {"train"}
    assert not set(GROUPS[kept.split == "test"]) & set(GROUPS[kept.split == "train"])


@pytest.mark.parametrize(
    ("answer", "wrong"), [("ok", False), ("cat", False), ("dog", True), ("wrong", True)]
)
def test_an_answer_is_wrong_unless_it_is_ok_or_the_label(answer: str, wrong: bool) -> None:
    assert ReviewedRow("a.png", "cat", "flagged", 3, answer).is_wrong is wrong


def test_a_bootstrap_sample_has_as_many_groups_as_there_are() -> None:
    """Each is drawn whole: with one more to be drawn from, intervals would be of other samples."""
    drawn = np.concatenate(list(draw_weights(20, 300, 0, np.arange(20) // 4)))
    assert drawn.shape == (300, 20)
    by_group = drawn.reshape(300, 5, 4)
    assert (by_group == by_group[:, :, :1]).all()
    assert (by_group[:, :, 0].sum(axis=1) == 5).all()
    alone = np.concatenate(list(draw_weights(20, 300, 0)))
    assert alone.shape == (300, 20)
    assert (alone.sum(axis=1) == 20).all()


def test_groups_reach_thresholds_of_features_that_are_read_in_blocks() -> None:
    samples = samples_of()
    X = samples.features[:, 2:] + (samples.y == "red")[:, None]
    samples = samples_of(features=X.astype(np.float32))
    options = FitOptions(folds=3, nested=False, memory="stream")
    plan = measurement(get_head("logreg"), samples, options)
    measured = plan.run()
    held = held_out(get_head("logreg"), measured.kept, samples, measured.trained, 3, 0)
    assert held.groups is not None
    assert len(held.groups) == len(held.y) == N
    # In whatever order they come, the rows of a group have its label.
    pairs = {(group, label) for group, label in zip(held.groups, held.y, strict=True)}
    assert pairs == set(zip(GROUPS.tolist(), samples.y.tolist(), strict=True))


@pytest.mark.parametrize("grouped", [False, True])
def test_what_a_promise_is_worth_is_measured_by_one_that_did_not_see_the_test_rows(
    grouped: bool,
) -> None:
    """The kept rule is chosen on all rows; one that is chosen on training rows is measured."""
    samples = samples_of()
    groups = samples.groups if grouped else None
    X = samples.features[:, 2:] + 1.2 * (samples.y == "red")[:, None]
    samples = samples_of(features=X.astype(np.float32), groups=groups)
    head = get_head("logreg").with_grid({"clf__C": [0.1]})
    options = FitOptions(folds=3, nested=False, cost="1:2", sets=0.8, split=0.4)
    measured = measurement(head, samples, options).run()
    contenders: Any = [Contender(None, samples)]  # type: ignore[arg-type]
    found, test = measured.found, measured.test
    assert measured.kept is not found
    told = held_out(head, found, samples, measured.train, 3, 0)
    model: Any = SimpleNamespace(meta={})
    sets = set_sets(model, head, contenders, measured, options)
    table = measured.scores.probabilities
    cuts = set_cuts(told.y, told.probabilities, samples.classes, 0.8)
    assert sets["test"] == coverage_of(cuts, samples.classes, samples.y[test], table)
    assert cuts != sets["classes"] == model.meta["sets"]["classes"]
    bars = set_thresholds(model, head, contenders, measured, options)
    rule, _ = choose(options.wanted, told, samples)
    codes = GROUPS[test] if grouped else None
    assert bars["test"] == worth(rule, samples.classes, samples.y[test], measured.scores, codes)
    assert rule["threshold"] != bars["threshold"] == model.meta["thresholds"]["threshold"]
