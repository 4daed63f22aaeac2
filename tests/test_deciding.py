"""Thresholds: chosen on training rows, measured on test rows, kept, and applied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from coloured import save_coloured
from conftest import Shell
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from featx import evaluate, fit, load_model, open_cache
from featx.errors import FitError, ModelError
from featx.evaluation.decisions import decision_lines
from featx.extraction.extraction import extract
from featx.fitting.deciding import DecisionTarget, HeldOutPredictions, choose, held_out
from featx.fitting.options import FitOptions
from featx.fitting.samples import Samples
from featx.fitting.streamed import measurement
from featx.heads import Head, get_head
from featx.model.archive import dump, read_archive, write_archive
from featx.model.thresholds import Scores, decide

CLASSES = ["blue", "red"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Path:
    """Red and blue pictures of which every fifth has the other's label: nothing is certain."""
    found = tmp_path_factory.mktemp("deciding")
    rows = []
    for k, path in enumerate(save_coloured(found, 120)):
        name = path.parent.name
        other = "blue" if name == "red" else "red"
        wrong = np.random.default_rng(k).random() < 0.2
        rows.append({"path": str(path), "label": other if wrong else name, "patient": f"p{k // 3}"})
    pd.DataFrame(rows).assign(number=range(120), third=["a", "b", "c"] * 40).to_csv(
        found / "t.csv", index=False
    )
    extract(found / "t.csv", found / "c.h5", **tiny)
    return found


def test_precision_is_kept_in_the_model_and_applied(folder: Path) -> None:
    out = folder / "p.featx"
    found = fit(folder / "c.h5", "logreg", out, precision_at=0.65).decisions
    assert found["by"] == "precision"
    assert set(found["classes"]) == set(CLASSES)
    assert all(c["precision"] >= c["low"] >= 0.65 for c in found["classes"].values())
    assert found["chosen_on"] == "out-of-fold predictions of 120 training rows"
    assert found["test"]["answered"]["value"] <= 1
    model = load_model(out)
    with open_cache(folder / "c.h5") as cache:
        table = model.predict(cache).to_frame()
        model.predict(cache, out=folder / "p.parquet")
    bars = table["label"].map({n: c["threshold"] for n, c in found["classes"].items()})
    shown = table[["p_blue", "p_red"]].max(axis=1)
    clear = (shown - bars).abs() > 1e-5
    assert (table["abstained"] == (shown < bars))[clear].all()
    assert pd.read_parquet(folder / "p.parquet")["abstained"].dtype == bool


def test_fewer_errors_are_bought_with_answers() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 400)
    y = np.where(rng.random(400) < p, "red", "blue")
    held = HeldOutPredictions(y, np.full(400, "red"), np.c_[1 - p, p])
    samples = _samples(y, np.zeros((400, 1), np.float32))
    found = [choose(DecisionTarget.of(abstain=errors), held, samples)[0] for errors in (0.35, 0.2)]
    assert 1 >= found[0]["answered"] > found[1]["answered"] > 0
    assert all(one["accuracy"] > one["low"] >= 1 - one["errors"] for one in found)


def test_test_rows_choose_nothing(folder: Path) -> None:
    """Labels of the test rows turned round move no threshold."""
    plain = fit(folder / "c.h5", "logreg", out=folder / "a.featx", cost="1:3", split=0.25)
    tested = set(load_model(folder / "a.featx").tested["ids"])
    table = pd.read_csv(folder / "t.csv")
    table["split"] = ["test" if path in tested else "train" for path in table["path"]]
    with_split = _fit_table(folder, table, "fixed")
    turned = table["label"].map({"red": "blue", "blue": "red"})
    table["label"] = table["label"].where(table["split"] == "train", turned)
    with_turned = _fit_table(folder, table, "turned")
    assert with_split["threshold"] == with_turned["threshold"]
    assert with_split["test"] != with_turned["test"]
    assert plain.decisions["test"]["answered"]["value"] == 1


def _fit_table(folder: Path, table: pd.DataFrame, name: str) -> dict[str, Any]:
    table.to_csv(folder / f"{name}.csv", index=False)
    with open_cache(folder / "c.h5") as cache:
        options = cache.provenance["options"]
    network = {"progress": False, "precision": "fp32"} | {
        k: v for k, v in options.items() if k in ("backbone", "weights", "layers", "input_size")
    }
    extract(folder / f"{name}.csv", folder / f"{name}.h5", **network)
    return fit(folder / f"{name}.h5", "logreg", cost="1:3").decisions


def test_dear_misses_move_the_threshold_down(folder: Path) -> None:
    dear, cheap = (
        fit(folder / "c.h5", "logreg", cost=cost, fit_on="train").decisions
        for cost in ("1:9", "9:1")
    )
    assert dear["positive"] == "red"
    assert dear["threshold"] < 0.5 < (cheap["threshold"] or 2)
    # What it costs is counted on test rows by hand.
    tested = fit(folder / "c.h5", "logreg", cost="1:9", fit_on="train").model
    assert tested is not None
    y, p = np.array(tested.tested["y"]), np.array(tested.tested["probabilities"])[:, 1]
    called = p >= round(dear["threshold"], 6)
    cost = np.mean(called & (y == "blue")) + 9 * np.mean(~called & (y == "red"))
    assert dear["test"]["cost"] == pytest.approx(cost)


def test_decide_by_hand() -> None:
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    scores = Scores(np.array(["blue", "blue", "red"]), p)
    assert decide({}, CLASSES, scores)[1].tolist() == [False] * 3
    cost = {"by": "cost", "positive": "red", "threshold": 0.4}
    assert decide(cost, CLASSES, scores)[0].tolist() == ["blue", "red", "red"]
    never = cost | {"threshold": None}
    assert decide(never, CLASSES, scores)[0].tolist() == ["blue"] * 3
    assert decide({"by": "abstain", "confidence": 0.7}, CLASSES, scores)[1].tolist() == [
        False,
        True,
        False,
    ]
    bars = {"by": "precision", "classes": {"blue": {"threshold": 0.8}, "red": None}}
    assert decide(bars, CLASSES, scores)[1].tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision_at": 0.9, "abstain": 0.1}, "give one"),
        ({"precision_at": 1.2}, "--precision-at is 1.2"),
        ({"abstain": 1.0}, "--abstain is 1"),
        ({"cost": "5"}, "expected FALSE_POSITIVE:FALSE_NEGATIVE"),
        ({"cost": "1:5", "label": "third"}, "--cost needs two classes, and there are 3"),
        ({"cost": "1:5", "nested": True}, "leave out --nested"),
        ({"cost": "1:5", "label": "number", "head": "ridge-reg"}, "these are numbers"),
        ({"abstain": 0.0, "label": "third"}, "--abstain is 0"),
        ({"abstain": 0.01, "label": "third"}, "it takes 230 rows that are all answered right"),
        ({"precision_at": 0.99}, "a precision of 0.99 cannot be promised with these rows"),
        ({"abstain": 0.1, "confidence": 1.0}, "--confidence is 1"),
    ],
)
def test_what_cannot_be_is_one_line(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(FitError, match=message):
        fit(folder / "c.h5", **{"head": "logreg"} | options)
    assert not DecisionTarget()


def test_a_class_out_of_reach_is_never_answered() -> None:
    """Of b, 20 rows are too few to promise anything; of a, 200 are enough."""
    y = np.array(["a"] * 200 + ["b"] * 20)
    table = np.array([[0.9, 0.1]] * 200 + [[0.1, 0.9]] * 20)
    held = HeldOutPredictions(y, y.copy(), table)
    samples = _samples(y, np.zeros((220, 1), np.float32))
    found, notes = choose(DecisionTarget.of(precision=0.95), held, samples)
    assert found["classes"]["b"] is None
    assert found["classes"]["a"]["answered"] == 1
    assert notes[0]["code"] == "precision-not-reached"
    assert "it takes 59 rows that are all answered right" in notes[0]["message"]
    assert "there are 20" in notes[0]["message"]
    never = {"precision": {"a": None}, "answered": {"value": 0.5}}
    assert "precision a none" in decision_lines(found | {"test": never})[2]


def test_a_group_counts_as_one_row() -> None:
    y = np.array(["a", "b"] * 100)
    table = np.tile([[0.9, 0.1], [0.1, 0.9]], (100, 1))
    samples = _samples(y, np.zeros((200, 1), np.float32))
    alone, _ = choose(
        DecisionTarget.of(abstain=0.05), HeldOutPredictions(y, y.copy(), table), samples
    )
    assert alone["answered"] == 1
    with pytest.raises(FitError, match=r"it takes 45 groups .* there are 20"):
        choose(
            DecisionTarget.of(abstain=0.05),
            HeldOutPredictions(y, y.copy(), table, np.arange(200) // 10),
            samples,
        )


def _samples(y: Any, X: Any, groups: Any = None) -> Samples:
    return Samples(
        rows=np.arange(len(y)),
        y=y,
        task="classification",
        tap="tap",
        ids=np.arange(len(y)).astype(str),
        digests=np.arange(len(y)).astype("S"),
        groups=groups,
        features=X,
    )


def test_damaged_thresholds_are_refused(folder: Path) -> None:
    fit(folder / "c.h5", "logreg", folder / "d.featx", abstain=0.35)
    members = read_archive(folder / "d.featx")
    meta = json.loads(members["meta.json"])
    for odd in ({"by": "whim"}, {"by": "abstain", "confidence": "x"}, {"by": "cost"}, [1]):
        write_archive(folder / "e.featx", members | {"meta.json": dump(meta | {"thresholds": odd})})
        with pytest.raises(ModelError, match="no proper 'thresholds'"):
            load_model(folder / "e.featx")


def test_the_shell_says_it(folder: Path, shell: Shell) -> None:
    cache = str(folder / "c.h5")
    for flags in (["--precision-at", "0.65"], ["--cost", "1:5"], ["--abstain", "0.35"]):
        done = shell("fit", cache, "--head", "logreg", *flags)
        assert done.returncode == 0, done.stderr
        assert "out-of-fold predictions of 120 training rows" in done.stdout


@pytest.mark.parametrize("wanted", [{"precision_at": 0.65}, {"cost": "1:3"}, {"abstain": 0.35}])
def test_evaluation_and_report_follow_the_rule(
    folder: Path, tmp_path: Path, wanted: dict[str, Any]
) -> None:
    out, page = tmp_path / "m.featx", tmp_path / "m.html"
    fitted = fit(folder / "c.h5", "logreg", out, report=page, fit_on="train", **wanted)
    found = evaluate(out, folder / "c.h5")
    # The rows that the model never saw are the test rows, in the order of the cache.
    assert found.decisions["test"]["answered"] == fitted.decisions["test"]["answered"]
    assert found.decisions["test"]["precision"] == fitted.decisions["test"]["precision"]
    assert ("cost" in found.decisions["test"]) == ("cost" in wanted)
    lines = decision_lines(found.decisions)
    assert len(lines) == (2 if "cost" in wanted else 3)
    for line in lines:
        assert line in page.read_text(encoding="utf-8")
        assert line in repr(found)


def test_evaluation_without_a_rule_says_none(folder: Path) -> None:
    fit(folder / "c.h5", "logreg", folder / "none.featx", fit_on="train")
    assert evaluate(folder / "none.featx", folder / "c.h5").decisions == {}


class Torn(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Keeps the groups (first feature) that were asked about after other rows of them taught."""

    groups: ClassVar[set[float]] = set()

    def fit(self, X: Any, y: Any = None) -> Torn:
        self.taught_ = set(X[:, 0])
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        self.fit(X)
        return X

    def transform(self, X: Any) -> Any:
        Torn.groups |= self.taught_ & set(X[:, 0])
        return X


def test_thresholds_of_a_stack_are_chosen_with_groups_kept_together() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 4)
    X = np.c_[groups, rng.normal(size=(80, 3))].astype(np.float32)
    samples = _samples(np.where(X[:, 1] > 0, "red", "blue"), X, groups)
    part = get_head(Pipeline([("mark", Torn()), ("clf", LogisticRegression())]))
    named = [("one", part.build()["clf"])]
    stack = Head(
        "stack",
        "classification",
        "",
        lambda seed, n: Pipeline([("clf", StackingClassifier(named, LogisticRegression()))]),
        parts=(part,),
    )
    measured = measurement(stack, samples, FitOptions(folds=3, nested=False)).run()
    Torn.groups.clear()
    held_out(stack, measured.kept, samples, measured.trained, 3, 0)
    assert not Torn.groups
