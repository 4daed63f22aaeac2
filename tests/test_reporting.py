"""The report: its numbers, its words, its safety, and what a browser makes of it."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coloured import save_coloured
from PIL import Image
from sklearn.datasets import load_diabetes, load_digits
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.pipeline import make_pipeline

import featx
from featx import fit, load_model
from featx.errors import CacheError, FitError, MissingExtraError, ModelError
from featx.evaluation import baseline, evaluate
from featx.extraction.extraction import extract
from featx.fitting.publishing import report, report_data
from featx.reporting import (
    FeatureMap,
    ReportData,
    RowSet,
    choose_points,
    learning_curve,
    least_certain,
    project,
    render,
    thumbnail,
    worst_mistakes,
    write_report,
)
from featx.reporting.charts import make_axis
from featx.reporting.plots import calibration_bins, ranking_curves
from featx.reporting.words import verdict

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = "<script>alert(1)</script>"


def make_figures(y: Any, predicted: Any, probabilities: Any, classes: list[str]) -> dict[str, Any]:
    """The figures of a fit, as `FitResult.to_dict` names them."""
    task = "classification" if classes else "regression"
    found = evaluate(
        y, predicted, probabilities=probabilities, classes=classes or None, task=task, n_boot=50
    )
    return {
        "head": "logreg",
        "tap": "pool",
        "test": {k: v for k, v in found.items() if isinstance(v, dict) and "low" in v},
        "baseline": baseline(y, y, task=task),
        "warnings": [],
        "n_train": 30,
        "n_test": len(y),
        "classes": classes,
        "confusion": found.get("confusion", []),
        "per_class": found.get("per_class", {}),
        "chosen": {"params": {"C": 1.0}},
        "cv": {"scoring": "accuracy", "folds": 3},
        "fingerprint": "f" * 64,
        "measured_by": "25% of the rows held out",
    }


def make_data(classes: tuple[str, ...] = ("cat", "dog"), n: int = 60) -> ReportData:
    rng = np.random.default_rng(0)
    names = np.array(classes)
    codes = np.arange(n) % len(names)
    table = rng.dirichlet(np.ones(len(names)), n) + np.eye(len(names))[codes] / len(names)
    table /= table.sum(axis=1, keepdims=True)
    y, predicted = names[codes], names[table.argmax(axis=1)]
    ids = [f"{k:03d}.png" for k in range(n)]
    picture = thumbnail(np.full((80, 60, 3), 90, np.uint8))
    return ReportData(
        figures=make_figures(y, predicted, table, list(classes)),
        ids=ids,
        y_true=y,
        y_pred=predicted,
        probabilities=table,
        pictures=dict.fromkeys(ids, picture),
        search=[
            {"params": {"C": 1.0}, "mean": 0.9, "std": 0.01},
            {"params": {"C": 0.1}, "mean": 0.8, "std": 0.02},
        ],
        points=FeatureMap(ids, rng.normal(size=(n, 2)), y.tolist(), predicted.tolist()),
        spec={"architecture": "tiny"},
        provenance={"source": "photos/", "versions": {"numpy": "2"}},
        commands=("featx extract photos c.h5", "featx fit c.h5"),
        created="2026-01-02T03:04:05+00:00",
    )


def make_regression() -> ReportData:
    X, y = load_diabetes(return_X_y=True)
    predicted = Ridge(0.1).fit(X[100:], y[100:]).predict(X[:100])
    ids = [f"r{k}" for k in range(100)]
    xy, method, explained = project(X[:100], "pca")
    return ReportData(
        figures=make_figures(y[:100], predicted, None, []),
        ids=ids,
        y_true=y[:100],
        y_pred=predicted,
        task="regression",
        points=FeatureMap(ids, xy, y[:100].tolist(), predicted.tolist(), method, explained),
        learning=learning_curve(
            Ridge(0.1), RowSet(X[100:], y[100:]), RowSet(X[:100], y[:100]), task="regression"
        ),
    )


class Page(HTMLParser):
    """Tags, texts and data of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.words = ""
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._script = dict(attrs).get("id") or "code"
            self.scripts[self._script] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.words += data
        else:
            self.scripts[self._script] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def numbers(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.scripts["featx-report"])
        return found


def test_the_page_needs_nothing_else() -> None:
    page = Page(render(make_data()))
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attrs.get(name) or ""
            assert value.startswith(("data:image/jpeg;base64,", "#")) or not value, (tag, value)
    style = render(make_data()).split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_the_page_has_its_parts() -> None:
    page = Page(render(make_data()))
    for title in (
        "How good it is", "What it confuses", "Thresholds and probabilities",
        "What the network sees", "Worst mistakes", "Least certain",
        "How it was chosen", "How to make it again",
    ):  # fmt: skip
        assert title in page.words
    for attrs in page.all("img"):
        assert "alt" in attrs
    assert all("scope" in attrs for attrs in page.all("th"))
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in page.all("svg"))
    assert "numpy" in page.words
    assert "featx fit c.h5" in page.words


def test_the_numbers_are_those_of_the_figures() -> None:
    data = make_data()
    page = Page(render(data))
    found = page.numbers
    assert found["test"] == data.figures["test"]
    assert found["confusion"] == data.figures["confusion"]
    assert found["predictions"]["ids"] == data.ids
    assert found["commands"] == list(data.commands)
    assert f"{100 * found['test']['accuracy']['value']:.1f}" in page.words


@pytest.mark.parametrize("where", ["id", "path", "class", "warning", "command", "source", "param"])
def test_names_are_text_wherever_they_stand(where: str) -> None:
    data = make_data(("cat", HOSTILE)) if where == "class" else make_data()
    hostile = [HOSTILE, *data.ids[1:]]
    if where == "id":
        points = data.points
        assert points is not None
        data = replace(data, ids=hostile, points=replace(points, ids=hostile))
        data = replace(data, y_pred=np.where(np.arange(60) == 0, "dog", data.y_pred))
    elif where == "path":
        data = replace(data, paths=['"><img src=x onerror=alert(1)>' + HOSTILE] * 60)
    elif where == "warning":
        data.figures["warnings"] = [{"code": "x", "message": HOSTILE}]
    elif where == "command":
        data = replace(data, commands=(HOSTILE,))
    elif where == "source":
        data = replace(data, provenance={"source": HOSTILE})
    elif where == "param":
        data = replace(data, search=[{"params": {HOSTILE: HOSTILE}, "mean": 1.0, "std": 0.0}])
    text = render(data)
    assert HOSTILE not in text
    assert html.escape(HOSTILE) in text.replace("&#39;", "'")
    page = Page(text)
    assert [s for s in page.scripts] == ["featx-report", "featx-pictures", "featx-table", "code"]
    assert not any("onerror" in attrs for _, attrs in page.tags)
    assert "alert" not in page.scripts["code"]


def test_what_comes_back_from_json_makes_the_same_page() -> None:
    data = make_data()
    again = ReportData.from_dict(json.loads(json.dumps(data.to_dict())))
    table = np.round(np.asarray(data.probabilities), 6)
    points = data.points
    assert points is not None
    rounded = replace(data, probabilities=table, points=replace(points, xy=np.round(points.xy, 4)))
    assert render(again) == render(rounded)


def test_lengths_that_do_not_fit_are_refused() -> None:
    data = make_data()
    with pytest.raises(FitError, match="a report of 60 test images has 59 predictions"):
        replace(data, y_pred=data.y_pred[1:])
    with pytest.raises(FitError, match=r"probabilities have shape \(60, 3\); expected \(60, 2\)"):
        replace(data, probabilities=np.zeros((60, 3)))
    with pytest.raises(FitError, match="a map of 2 images has coordinates"):
        FeatureMap(["a", "b"], np.zeros((3, 2)), ["x", "x"], ["x", "x"])


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"cannot write .*: No such file"):
        write_report(tmp_path / "absent" / "r.html", make_data())
    (tmp_path / "taken").mkdir()
    with pytest.raises(CacheError, match="taken: Is a directory"):
        write_report(tmp_path / "taken", make_data())
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"value": 0.9, "low": 0.85, "high": 0.95}, "clearly better than"),
        ({"value": 0.52, "low": 0.4, "high": 0.64}, "not to be told from"),
        ({"value": 0.2, "low": 0.1, "high": 0.3}, "worse than"),
    ],
)
def test_the_verdict_says_no_more_than_the_interval(change: dict[str, float], said: str) -> None:
    data = make_data()
    data.figures["test"]["accuracy"] = change
    data.figures["baseline"]["accuracy"] = {"value": 0.5, "low": 0.4, "high": 0.6}
    assert said in verdict(data)


def test_a_leak_is_in_the_verdict_and_on_top() -> None:
    data = make_data()
    note = {"code": "duplicates-across-split", "message": "3 of 60 test images are twins"}
    data.figures["warnings"] = [note]
    assert "the split leaks" in verdict(data)
    words = Page(render(data)).words
    assert words.index("3 of 60 test images are twins") < words.index("How good it is")


def test_curves_agree_with_scikit_learn() -> None:
    data = make_data(("a", "b", "c"), 90)
    table = np.asarray(data.probabilities)
    for one in ranking_curves(data.y_true, table, data.classes):
        scores = table[:, data.classes.index(one["class"])]
        positive = data.y_true == one["class"]
        assert one["auc"] == pytest.approx(roc_auc_score(positive, scores))
        assert one["average_precision"] == pytest.approx(average_precision_score(positive, scores))
        assert np.trapezoid(one["roc"][1], one["roc"][0]) == pytest.approx(one["auc"], abs=0.01)
    assert [c["class"] for c in ranking_curves(["a", "b"], [[1, 0], [0, 1]], ["a", "b"])] == ["b"]
    assert ranking_curves(["a"], [[1, 0]], ["a", "b"]) == []


def test_bins_make_up_the_calibration_error() -> None:
    data = make_data(("a", "b", "c"), 90)
    bins = calibration_bins(data.y_true, data.y_pred, np.asarray(data.probabilities))
    assert sum(b["n"] for b in bins) == 90
    error = sum(b["n"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / 90
    assert error == pytest.approx(data.figures["test"]["calibration_error"]["value"])


def test_many_classes_have_no_tangle_of_curves() -> None:
    page = Page(render(make_data(tuple(f"k{k:02d}" for k in range(24)), 240)))
    assert "Most frequent mistakes" in page.words
    assert len(page.numbers["curves"]) == 24
    worst = sorted(page.numbers["curves"], key=lambda one: one["average_precision"])[:6]
    assert "In colour the 6 classes that are ranked worst" in page.words
    for one in worst:
        assert f"{one['class']} ({one['average_precision']:.3f})" in page.words
    lines = [str(a.get("class")) for a in page.all("path") if "line" in str(a.get("class"))]
    assert lines.count("line rest") == 2 * 18  # ROC, precision and recall
    assert "grey: 14 further classes" in page.words
    assert not any(a.get("class") == "confusion" for a in page.all("table"))


def test_a_head_without_probabilities_has_a_page() -> None:
    data = replace(make_data(), probabilities=None)
    del data.figures["test"]["calibration_error"]
    words = Page(render(data)).words
    assert "Worst mistakes" in words
    assert "Least certain" not in words
    assert "Calibration." not in words


def test_a_regression_has_a_page() -> None:
    data = make_regression()
    page = Page(render(data))
    assert "Largest errors" in page.words
    assert "Predicted and true" in page.words
    assert "What it confuses" not in page.words
    assert "clearly better than" in page.numbers["verdict"]
    assert page.numbers["learning_curve"]["metric"] == "mae"


def test_an_interval_without_an_end_is_said_so() -> None:
    data = make_regression()
    data.figures["test"]["r2"] = {"value": 0.1, "low": None, "high": 0.5}
    assert "no end to 0.500" in Page(render(data)).words


def test_labels_help_where_the_head_still_learns() -> None:
    X, y = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(y))
    X, y = X[rows] / 16, y[rows]
    head = LogisticRegression(max_iter=300)
    train, test = RowSet(X[:250], y[:250]), RowSet(X[800:], y[800:])
    found = learning_curve(head, train, test)
    values = [point["value"] for point in found["points"]]
    assert values == sorted(values)
    assert found["verdict"] == "yes"
    assert found["doubled"]["n"] == 500
    full = (head.fit(X[:250], y[:250]).predict(X[800:]) == y[800:]).mean()
    assert values[-1] == pytest.approx(full)
    # What was extrapolated is near what comes of it.
    real = (head.fit(X[:500], y[:500]).predict(X[800:]) == y[800:]).mean()
    assert found["doubled"]["value"] == pytest.approx(real, abs=0.04)
    assert learning_curve(head, train, test) == found


def test_labels_do_not_help_a_head_that_learns_nothing() -> None:
    y = np.array(["a", "b", "a"] * 100)
    part = RowSet(np.zeros((300, 1)), y)
    found = learning_curve(DummyClassifier(), part, part)
    assert found["verdict"] == "little"
    assert found["gain"]["value"] == 0
    assert found["answer"].startswith("Hardly.")


def test_a_fixed_number_of_passes_is_as_many_steps_on_every_part() -> None:
    X = np.random.default_rng(0).normal(size=(240, 3))
    part = RowSet(X, np.array(["a", "b"] * 120))
    steps: list[int] = []

    class Counted(SGDClassifier):
        def fit(self, X: Any, y: Any) -> Any:
            steps.append(len(X) * self.max_iter)
            return super().fit(X, y)

    learning_curve(make_pipeline(Counted(max_iter=5, tol=None)), part, part)
    assert set(steps) == {1200}
    steps.clear()
    learning_curve(make_pipeline(Counted(max_iter=1000)), part, part)
    assert len(set(steps)) == 4  # a tolerance ends each by itself


def test_parts_are_whole_groups_and_hold_every_class() -> None:
    groups = np.repeat(np.arange(20), 6)
    X, y = groups[:, None].astype(float), np.array(["a", "b"] * 60)
    seen: list[Any] = []

    class Spy(DummyClassifier):
        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
            seen.append((np.asarray(X)[:, 0], set(y)))
            return super().fit(X, y)

    learning_curve(Spy(), RowSet(X, y, groups), RowSet(X, y))
    for column, _ in seen:
        assert set(np.unique(column, return_counts=True)[1].tolist()) == {6}
    seen.clear()
    rare = np.where(np.arange(120) < 100, "a", "b")
    learning_curve(Spy(), RowSet(X, rare), RowSet(X, rare))
    assert all(labels == {"a", "b"} for _, labels in seen)


def test_too_few_rows_for_a_curve() -> None:
    part = RowSet(np.zeros((2, 1)), np.array(["a", "a"]))
    with pytest.raises(FitError, match="2 training rows are too few"):
        learning_curve(DummyClassifier(), part, part)
    empty = RowSet(np.zeros((0, 1)), np.array([]))
    with pytest.raises(FitError, match="needs test rows"):
        learning_curve(DummyClassifier(), part, empty)


def test_maps() -> None:
    X = load_digits().data[:100]
    xy, method, explained = project(X, "pca")
    assert (xy.shape, method) == ((100, 2), "PCA")
    assert 0 < explained[1] <= explained[0] < 1
    assert not project(np.ones((3, 4)), "pca")[0].any()
    with pytest.raises(FitError, match="two rows or more"):
        project(X[:1])
    with pytest.raises(FitError, match="no map is called 'tsne'"):
        project(X, "tsne")
    if find_spec("umap") is None:
        with pytest.raises(MissingExtraError, match="umap-learn"):
            project(X, "umap")
        assert project(X)[1] == "PCA"


def test_points_of_a_map_keep_the_shares_of_the_classes() -> None:
    y = np.array(["a"] * 900 + ["b"] * 100)
    rows = choose_points(y, 100)
    assert len(set(rows.tolist())) == 100
    assert (y[rows] == "b").sum() == pytest.approx(10, abs=1)
    assert choose_points(y[:5], 100).tolist() == [0, 1, 2, 3, 4]


def test_pictures_that_are_shown() -> None:
    table = [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.45, 0.55]]
    true, called = ["b", "b", "b", "a"], ["a", "a", "b", "b"]
    assert worst_mistakes(true, called, table).tolist() == [0, 1, 3]
    assert worst_mistakes(true, called, None, n=1).tolist() == [0]
    assert least_certain(table, n=2).tolist() == [3, 1]
    assert least_certain(table, n=2, leave_out=[3]).tolist() == [1, 2]
    assert worst_mistakes(np.array([1.0, 2.0]), np.array([1.5, 9.0]), None).tolist() == [1, 0]


def test_thumbnails_are_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.integers(0, 255, (300, 200, 1), dtype=np.uint8), 3, axis=2)
    (tmp_path / "t.jpg").write_bytes(thumbnail(grey, 96))
    with Image.open(tmp_path / "t.jpg") as image:
        assert (image.size, image.mode) == ((64, 96), "L")


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.793, 0.871), (-3e4, 5e5), (2.0, 2.0)])
def test_axes_have_a_few_round_ticks(low: float, high: float) -> None:
    axis = make_axis(low, high)
    assert 1 <= len(axis.ticks) <= 11
    assert len({text for _, text in axis.ticks}) == len(axis.ticks)
    for value, text in axis.ticks:
        assert float(text) == pytest.approx(value, abs=abs(value) * 1e-6 + 1e-9)


def test_reporting_imports_neither_torch_nor_h5py() -> None:
    code = "import sys, featx.reporting; print(sorted({'torch', 'h5py'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Path:
    """A model whose cache and pictures are gone, beside the page that its fit wrote."""
    folder = tmp_path_factory.mktemp("published")
    save_coloured(folder / "photos", 60)
    extract(folder / "photos", folder / "c.h5", **tiny)
    fit(folder / "c.h5", "svm", folder / "m.featx", report=folder / "fit.html", folds=3, seed=1)
    (folder / "c.h5").unlink()
    (folder / "photos").rename(folder / "away")
    return folder / "m.featx"


def test_the_report_is_made_again_from_the_model_alone(fitted: Path) -> None:
    place = report(fitted)
    assert place == fitted.with_suffix(".html")
    assert place.read_bytes() == (fitted.parent / "fit.html").read_bytes()
    page = Page(place.read_text())
    assert "Would twice the labels help?" in page.words
    assert page.numbers["test"] == load_model(fitted).figures["test"]
    first, second = page.numbers["commands"]
    assert re.fullmatch(r"featx extract \S*photos \S*c\.h5 .*--layer flatten.*", first)
    assert re.fullmatch(r"featx fit \S*c\.h5 --head svm --folds 3 --seed 1 --out \S*", second)
    pictures = json.loads(page.scripts["featx-pictures"])["images"]
    assert len(pictures) == page.numbers["n_test"]
    assert all(pictures.values())


@pytest.mark.slow
def test_the_shell_writes_the_same_page(fitted: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "featx", "report", str(fitted)]
    out = ["--out", str(tmp_path / "r.html"), "--json"]
    found = subprocess.run([*command, *out], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == {"report": str(tmp_path / "r.html")}
    assert (tmp_path / "r.html").read_bytes() == (fitted.parent / "fit.html").read_bytes()


def test_models_without_test_rows_or_with_other_parts(fitted: Path, tmp_path: Path) -> None:
    model = load_model(fitted)
    bare = replace(model, kept={})
    assert "How good it is" in report(bare, tmp_path / "bare.html").read_text()
    with pytest.raises(ModelError, match="keeps no test rows"):
        report(replace(model, tested={}), tmp_path / "r.html")
    with pytest.raises(ModelError, match=r"is damaged: report.json does not fit"):
        report_data(replace(model, kept={"points": {"ids": ["a"]}}))
    with pytest.raises(ModelError, match="never saved"):
        report(replace(model, path=None))


def test_the_least_certain_are_not_the_worst_mistakes_again() -> None:
    data = make_data()
    text = render(data)
    galleries = [one.split("</ul>")[0] for one in text.split('<ul class="gallery">')[1:]]
    first, second = ({name for name in data.ids if name in one} for one in galleries)
    assert len(first) > 3
    assert len(second) > 3
    assert not first & second


def test_candidates_stand_in_the_order_of_their_strength() -> None:
    rng = np.random.default_rng(0)
    tried = [
        {"params": {"clf__C": c, "scale": scale}, "mean": float(rng.random()), "std": 0.0}
        for c in (100.0, 0.01, 1.0)
        for scale in ("l2", "columns")
    ]
    text = render(replace(make_data(), search=tried))
    rows = text.split('<table class="search">')[1].split("</table>")[0].split("<tr")[2:]
    shown = [re.findall(r'<td class="num">([^<]*)</td>', row)[:2] for row in rows]
    assert shown == [[s, c] for s in ("columns", "l2") for c in ("0.01", "1", "100")]


def test_the_table_holds_every_prediction() -> None:
    data = make_data()
    table = json.loads(Page(render(data)).scripts["featx-table"])
    assert table["columns"] == ["Image", "True", "Predicted", "Confidence"]
    assert [row[0] for row in table["rows"]] == data.ids
    assert [row[5] for row in table["rows"]] == (data.y_true != data.y_pred).tolist()
    numbers = json.loads(Page(render(make_regression())).scripts["featx-table"])
    assert numbers["columns"][-1] == "Error"
    assert len(numbers["rows"]) == 100


@pytest.mark.parametrize(
    ("n_classes", "width"),
    [
        (2, 360),
        (30, 1440),
        *(
            pytest.param(n, width, marks=pytest.mark.slow)
            for n in (2, 10, 30)
            for width in (360, 768, 1440)
            if (n, width) not in {(2, 360), (30, 1440)}
        ),
    ],
)
def test_nothing_is_clipped_or_too_small_to_read(
    browser: Any, tmp_path: Path, n_classes: int, width: int
) -> None:
    names = tuple(
        f"a long name of class {k}" if n_classes == 2 else f"c{k}" for k in range(n_classes)
    )
    place = write_report(tmp_path / "r.html", make_data(names, max(60, 8 * n_classes)))
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(place.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.evaluate(
        """() => [...document.querySelectorAll("svg.chart")].flatMap((svg) => {
          const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
          return [...svg.querySelectorAll("text")].map(
            (text) => scale * parseFloat(getComputedStyle(text).fontSize));
        })"""
    )
    assert min(sizes) >= 10
    # No word of a table's heading column is broken: each is as wide as its longest word at least.
    broken = page.evaluate(
        """() => [...document.querySelectorAll("tbody th")].filter((cell) =>
          cell.scrollWidth > cell.clientWidth + 1).length"""
    )
    assert broken == 0
    page.close()


def test_the_table_of_several_labels_scrolls_by_itself_on_a_phone(
    browser: Any, tmp_path: Path
) -> None:
    X = np.random.default_rng(0).normal(size=(60, 3))
    names = ["a name that is long", "another of the names", "c"]
    labels = [tuple(n for n, x in zip(names, row, strict=True) if x > 0) for row in X]
    featx.write_cache(tmp_path / "v.h5", X, labels=labels, encoder="e")
    featx.fit(tmp_path / "v.h5", "ridge", report=tmp_path / "r.html")
    page = browser.new_page(viewport={"width": 360, "height": 900})
    page.goto((tmp_path / "r.html").as_uri())
    assert page.locator("table.each").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()


def test_the_table_is_sorted_searched_and_a_click_enlarges(browser: Any, tmp_path: Path) -> None:
    data = make_data()
    place = write_report(tmp_path / "r.html", replace(data, paths=[HOSTILE, *data.ids[1:]]))
    page = browser.new_page()
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(place.as_uri())
    rows = page.locator("table.rows tbody tr")
    assert rows.count() == 25
    assert page.locator("table.rows tbody td.name").first.inner_text() == HOSTILE
    page.get_by_role("button", name="Show more").click()
    assert rows.count() == 50
    page.get_by_role("button", name="Confidence").click()
    assert data.probabilities is not None
    least = f"{100 * data.probabilities.max(axis=1).min():.1f}"
    assert rows.first.locator("td.num").inner_text().startswith(least)
    page.get_by_label("only mistakes").check()
    n_wrong = int((data.y_true != data.y_pred).sum())
    assert page.locator("#table-count").inner_text() == f"{n_wrong} of 60 test images."
    page.get_by_label("only mistakes").uncheck()
    page.get_by_label("Search").fill("059 dog")
    assert rows.count() == 1
    page.get_by_role("button", name="Enlarge 059.png").last.click()
    assert page.locator("dialog.large[open] img").get_attribute("alt").startswith("059.png")
    page.keyboard.press("Escape")
    assert page.locator("dialog.large[open]").count() == 0
    assert said == []
    page.close()


@pytest.mark.skipif(not CHROMIUM.exists(), reason="/usr/bin/chromium is not installed")
def test_a_browser_opens_it_without_complaint(fitted: Path, tmp_path: Path) -> None:
    data = report_data(load_model(fitted))
    hostile = replace(data, paths=[HOSTILE, *data.paths[1:]])
    page = write_report(tmp_path / "r.html", hostile)
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr",
        "--v=0", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in found.stderr
    dom = Page(found.stdout)
    n = data.figures["n_test"]
    points = [a for a in dom.all("path") if "data-k" in a]
    assert len(points) == n
    # The page's script ran: it took the titles off the points.
    assert "<title>" not in found.stdout.split('class="map"')[1].split("</svg>")[0]
    assert any(a.get("class") == "gallery" for a in dom.all("ul"))
    assert any(a.get("class") == "metrics" for a in dom.all("table"))
