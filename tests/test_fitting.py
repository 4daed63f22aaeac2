"""fit: only training rows choose, test rows only measure, and every bad input is one line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coloured import save_coloured

from featx import evaluate, fit, open_cache, write_cache
from featx.cache import Cache
from featx.errors import CacheError, CacheFormatError, FitError, ModelError
from featx.extraction.extraction import extract
from featx.fitting.columns import Columns, load_samples
from featx.fitting.measuring import Measurement
from featx.fitting.options import FitOptions
from featx.heads import get_head
from featx.selection import SplitPlan

PARTS = ("train", "train", "train", "validation", "test", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fitting")


@pytest.fixture(scope="module")
def cache(folder: Path, tiny: dict[str, Any]) -> Iterator[Cache]:
    """60 pictures of two colours, 4 without label, with the columns that a fit can name."""
    rows = []
    for k, path in enumerate(save_coloured(folder, 60)):
        value = float(np.sin(k))
        rows.append(
            {
                "path": str(path.relative_to(folder)),
                "label": path.parent.name if k < 56 else "",
                "patient": f"p{k // 4}",
                "half": f"h{k % 2}",
                "one": "same",
                "value": value,
                "count": k % 3,
                "weight": 1 + k % 2,
                "part": PARTS[k // 2 % 6],
                "wrong": "trian",
                "rare": "few" if k < 3 else "many",
                "endless": np.inf if k == 7 else k,
            }
        )
    write_table(folder / "table.csv", rows)
    extract(folder / "table.csv", folder / "c.h5", **tiny)
    with open_cache(folder / "c.h5") as opened:
        yield opened


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def samples_of(cache: Cache, **columns: Any) -> Any:
    return load_samples(cache, Columns(**columns), get_head("svm"))


def test_figures_of_classes_that_colours_tell_apart(cache: Cache) -> None:
    result = fit(cache, "logreg", seed=1)
    assert result.excluded == {"without label": 4}
    assert (result.n_train, result.n_test) == (42, 14)
    assert result.classes == ["blue", "red"]
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "log_loss"):
        figure = result.test[name]
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert result.test["accuracy"]["value"] == 1
    assert result.baseline["accuracy"]["value"] == 0.5
    assert result.confusion == [[7, 0], [0, 7]]
    assert 0.9 < result.cv["score"] <= 1
    assert [w["code"] for w in result.warnings if w["code"] == "few-test-rows"]


def test_test_rows_do_not_change_the_model(cache: Cache) -> None:
    """Labels of the test rows may be anything: what was chosen and fitted is the same."""
    samples = samples_of(cache)
    first = Measurement(get_head("logreg"), samples, SplitPlan()).run()
    y = samples.y.copy()
    y[first.test] = np.where(y[first.test] == "red", "blue", "red")
    # The split is stratified by the labels, so it is fixed for this comparison.
    part = np.full(len(samples), "train", dtype=object)
    part[first.test] = "test"
    runs = [
        Measurement(get_head("logreg"), replace(samples, y=labels, split=part), SplitPlan()).run()
        for labels in (samples.y, y)
    ]
    assert runs[0].found.best_params == runs[1].found.best_params
    coefficients = [run.found.estimator["clf"].coef_ for run in runs]
    np.testing.assert_array_equal(*coefficients)
    assert runs[0].metrics["accuracy"]["value"] == 1
    assert runs[1].metrics["accuracy"]["value"] == 0


def test_scaler_saw_the_training_rows_only(cache: Cache) -> None:
    samples = samples_of(cache)
    measured = Measurement(get_head("logreg"), samples, SplitPlan()).run()
    scaler = measured.found.estimator["scale"]
    np.testing.assert_allclose(scaler.mean_, samples.take(measured.train).mean(axis=0), rtol=1e-4)


def test_shuffled_labels_score_like_the_baseline(cache: Cache) -> None:
    samples = samples_of(cache)
    y = np.random.default_rng(0).permutation(samples.y)
    measured = Measurement(get_head("svm"), replace(samples, y=y), SplitPlan(nested=True)).run()
    assert measured.metrics["accuracy"]["low"] < 0.5 < measured.metrics["accuracy"]["high"]


def test_groups_stay_on_one_side(cache: Cache) -> None:
    samples = samples_of(cache, groups="patient")
    measured = Measurement(get_head("svm"), samples, SplitPlan(groups="patient")).run()
    groups = samples.groups
    assert not set(groups[measured.train]) & set(groups[measured.test])


def test_column_called_group_needs_no_asking(folder: Path, tiny: dict[str, Any]) -> None:
    rows = [
        {"path": f"{c}/{k:03d}.png", "label": c, "group": f"g{k // 6}"}
        for k in range(48)
        for c in [("red", "blue")[k % 2]]
    ]
    write_table(folder / "grouped.csv", rows)
    extract(folder / "grouped.csv", folder / "grouped.h5", **tiny)
    with open_cache(folder / "grouped.h5") as cache:
        samples = samples_of(cache)
        measured = Measurement(get_head("svm"), samples, SplitPlan()).run()
        assert not set(samples.groups[measured.train]) & set(samples.groups[measured.test])


def test_split_column_is_followed(cache: Cache) -> None:
    result = fit(cache, "svm", split="part")
    part = cache.columns["part"]
    assert result.model is not None
    names = [name for name, p in zip(cache.ids, part, strict=True) if p == "test"]
    labelled = [name for name in names if cache.y[cache.ids.index(name)] >= 0]
    assert result.model.tested["ids"] == labelled
    assert result.excluded["without split"] == int((part[:56] == "").sum())
    # Validation rows choose, and the chosen head then learns from them too.
    assert result.n_train == int(np.isin(part[:56], ("train", "validation")).sum())
    assert result.cv["folds"] == 1


def test_class_that_only_the_test_rows_have(cache: Cache) -> None:
    """It counts as a mistake, and the probabilities keep a column for it."""
    samples = samples_of(cache)
    y, part = samples.y.astype("U6"), np.full(len(samples), "train", dtype=object)
    part[40:], y[50:] = "test", "green"
    changed = replace(samples, y=y, split=part)
    measured = Measurement(get_head("svm"), changed, SplitPlan()).run()
    assert measured.metrics["classes"] == ["blue", "green", "red"]
    assert measured.metrics["accuracy"]["value"] == pytest.approx(10 / 16)
    assert measured.scores.probabilities is not None
    assert (measured.scores.probabilities[:, 1] == 0).all()
    assert np.isfinite(measured.metrics["log_loss"]["value"])


def test_number_column_needs_a_regression_head(cache: Cache) -> None:
    result = fit(cache, "ridge-reg", label="value")
    assert {"r2", "mae"} <= set(result.test)
    assert result.classes == []
    with pytest.raises(FitError, match=r"are numbers .* ridge-reg, svr, knn-reg"):
        fit(cache, "svm", label="value")
    with pytest.raises(FitError, match=r"predicts a number, and labels are names .*svm"):
        fit(cache, "ridge-reg")


def test_whole_numbers_are_classes(cache: Cache) -> None:
    assert fit(cache, "svm", label="count").classes == ["0", "1", "2"]


@pytest.mark.parametrize("how", [{}, {"repeats": 2}, {"nested": True}, {"slices": "site"}])
def test_classes_may_be_called_as_the_ends_of_an_interval(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    """`per_class` has a key for each class, and was taken for a metric."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(48, 4))
    names = np.array(["low", "high", "value"])[np.arange(48) % 3]
    sites = [f"s{k // 24}" for k in range(48)]
    write_cache(tmp_path / "c.h5", X, labels=names, columns={"site": sites}, encoder="e")
    found = fit(tmp_path / "c.h5", "ridge", **how)
    figures = [found.test, *found.slices.get("test", {}).values()]
    assert set(found.per_class) == {"low", "high", "value"}
    assert not [one for one in figures if "per_class" in one]


def test_repeats_give_the_mean_of_the_splits(cache: Cache) -> None:
    single = [fit(cache, "svm", label="count", seed=s).test["accuracy"]["value"] for s in (0, 1, 2)]
    repeated = fit(cache, "svm", label="count", repeats=3)
    figure = repeated.test["accuracy"]
    assert figure["value"] == pytest.approx(np.mean(single))
    assert figure["low"] < figure["value"] < figure["high"]
    assert repeated.model is not None
    assert len(repeated.model.tested["ids"]) == repeated.n_test


def test_nested_measures_every_row_and_fits_all(cache: Cache) -> None:
    result = fit(cache, "svm", nested=True, folds=3)
    assert result.n_test == result.n_train == 56
    assert sum(map(sum, result.confusion)) == 56


def test_the_model_is_fitted_on_all_rows_after_it_was_measured(cache: Cache) -> None:
    whole, part = (fit(cache, "logreg", fit_on=rows) for rows in ("all", "train"))
    assert (whole.n_train, whole.n_test, whole.trained_on) == (42, 14, 56)
    assert (part.n_train, part.n_test, part.trained_on) == (42, 14, 42)
    # The figures and the settings are those of the head that had not seen the test rows.
    assert (whole.test, whole.chosen["params"]) == (part.test, part.chosen["params"])
    assert whole.test_ids == part.test_ids
    assert len(whole.test_ids) == 14
    models = [whole.model, part.model]
    labelled = np.flatnonzero(np.asarray(cache.y) >= 0)
    ids = [cache.ids[k] for k in labelled]
    for model, n in zip(models, (56, 42), strict=True):
        assert model is not None
        assert model.saw(ids, cache.content_digests[labelled]).sum() == n
        assert model.meta["n_train"] == n
        scaler = model.estimator["scale"]
        assert scaler.n_samples_seen_ == n
    assert fit(cache, "logreg").trained_on == 56


def test_test_rows_that_the_source_marks_stay_out_unless_asked_for(cache: Cache) -> None:
    marked = fit(cache, "logreg", split="part")
    part = cache.columns["part"][:56]
    n_test = int((part == "test").sum())
    assert marked.trained_on == marked.n_train == int((part != "").sum()) - n_test
    every = fit(cache, "logreg", split="part", fit_on="all")
    assert every.trained_on == marked.n_train + n_test
    assert every.test == marked.test
    assert every.chosen["params"] == marked.chosen["params"]


def test_several_splits_leave_one_search_on_all_rows(cache: Cache) -> None:
    repeated = fit(cache, "ridge", label="count", repeats=2)
    assert repeated.trained_on == 60
    assert repeated.chosen == fit(cache, "ridge", label="count", nested=True).chosen


def test_evaluate_says_that_no_row_is_left(cache: Cache, folder: Path) -> None:
    fit(cache, "logreg", folder / "whole.featx")
    with pytest.raises(ModelError, match=r"none is left .*accuracy 1.0000 by 25% .*--fit-on train"):
        evaluate(folder / "whole.featx", cache)
    fit(cache, "logreg", folder / "part.featx", fit_on="train")
    assert evaluate(folder / "part.featx", cache).n_test == 14


def test_same_seed_same_figures(cache: Cache) -> None:
    first, second = (fit(cache, "svm", seed=3).to_dict() for _ in range(2))
    first.pop("seconds"), second.pop("seconds")
    assert first == second


def test_weights_reach_the_fit(cache: Cache) -> None:
    plain, weighted = fit(cache, "logreg"), fit(cache, "logreg", weights_column="weight")
    models = [plain.model, weighted.model]
    assert all(models)
    coefficients = [m.estimator["clf"].coef_ for m in models if m is not None]
    assert not np.allclose(*coefficients)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "svn"}, "did you mean"),
        ({"tap": "flaten"}, "has no tap 'flaten'; did you mean flatten"),
        ({"label": "vlue"}, "--label 'vlue'.*did you mean value"),
        ({"groups": "patent"}, "--groups 'patent'.*did you mean patient"),
        ({"groups": "one"}, "one group"),
        ({"groups": "half"}, "class 'blue' lies in so few groups"),
        ({"weights_column": "patient"}, "hold text that is not a number .'p0' of 'red/000.png'"),
        ({"weights_column": "value"}, "holds -0.756802 for 'red/004.png' .* 0 or more"),
        ({"weights_column": "endless"}, "holds inf for 'blue/007.png'"),
        ({"label": "endless"}, "60 classes have too few rows .*0 .1., 1 .1."),
        ({"label": "endless", "head": "ridge-reg"}, "infinite in 1 of 60 rows, first in row 7"),
        ({"label": "one"}, "only class 'same'"),
        ({"label": "rare"}, "class 'few' has 2 rows, and 5 folds need 5"),
        ({"split": "wrong"}, "'trian'; did you mean train"),
        ({"split": "2"}, "share of test rows is 2"),
        ({"split": "part", "nested": True}, "fixes one split, and --nested"),
        ({"folds": 1}, "number of folds is 1"),
        ({"repeats": 0}, "number of repeats is 0"),
        ({"fit_on": "train", "nested": True}, "leaves none for --fit-on train"),
    ],
)
def test_bad_input_is_one_line(cache: Cache, options: dict[str, Any], message: str) -> None:
    with pytest.raises(FitError, match=message) as caught:
        fit(cache, **{"head": "svm", **options})
    assert "\n" not in str(caught.value)


def test_class_that_the_split_keeps_from_training_is_named(cache: Cache) -> None:
    result = fit(cache, "logreg", label="count", split="part")
    assert "unknown-classes" not in [w["code"] for w in result.warnings]
    every = samples_of(cache, label="count", split="part")
    kept = every.keep((every.split == "test") | (every.y != "2"), "for the test")
    kept = kept.keep(kept.split != "", "without split")
    found = Measurement(get_head("logreg"), kept, SplitPlan(split="part")).run()
    note = next(w["message"] for w in found.warnings if w["code"] == "unknown-classes")
    rows = int(((kept.split == "test") & (kept.y == "2")).sum())
    assert rows
    assert note.startswith(f"{rows} test rows are of classes without a training row (2)")


def test_cache_without_labels(folder: Path, tiny: dict[str, Any]) -> None:
    extract(sorted((folder / "red").iterdir()), folder / "bare.h5", **tiny)
    with pytest.raises(FitError, match="has no labels"):
        fit(folder / "bare.h5")


def test_features_that_are_not_numbers_are_named(cache: Cache) -> None:
    samples = samples_of(cache)
    X = np.array(cache.X)
    X[7, 3] = np.nan
    with pytest.raises(FitError, match=r"NaN or infinity in 1 rows, first 'blue/007.png'"):
        Measurement(get_head("svm"), replace(samples, features=X), SplitPlan()).run()


def test_file_that_is_no_cache(folder: Path) -> None:
    with pytest.raises(CacheFormatError, match="not a featx cache"):
        fit(folder / "table.csv")


def test_target_is_refused_before_anything_is_read(folder: Path) -> None:
    with pytest.raises(CacheError, match="does not exist"):
        fit(folder / "no such cache.h5", out=folder / "nowhere" / "m.featx")


def test_head_that_cannot_be_saved_is_refused_unfitted(cache: Cache, folder: Path) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    class Own(HistGradientBoostingClassifier):  # type: ignore[misc]
        def fit(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("fitted")

    with pytest.raises(ModelError, match="cannot be saved"):
        fit(cache, Own(), out=folder / "own.featx")


def test_options_are_normalised_once() -> None:
    assert FitOptions(split="0.3").plan.test_size == 0.3
    assert FitOptions(split="0.3").columns.split is None
    assert FitOptions(split="part").columns.split == "part"
