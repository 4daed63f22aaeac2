"""More rows for a model: equal to a fit on all rows, or refused in one line."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Shell

import featx
from featx.errors import FeatxError, FitError, ModelError
from featx.fitting import growing
from featx.heads import HEADS
from featx.model.archive import SUMS
from featx.model.modelfile import save_model
from featx.model.rowsums import read_sums
from featx.selection.refit import refit
from featx.streaming import STREAMED, Blocks, search_blocks

WIDTH = 12


def rows(n: int, k: int, seed: int) -> tuple[Any, list[str]]:
    """Overlapping classes, far from zero, with a constant column."""
    rng, centres = np.random.default_rng(seed), np.random.default_rng(7).normal(size=(6, WIDTH))
    codes = np.arange(n) % k
    X = centres[codes] * 0.6 + rng.normal(size=(n, WIDTH)) + 5
    X[:, 2] = 1.25
    return X.astype(np.float32), [f"class {code}" for code in codes]


def written(path: Path, X: Any, labels: Any, start: int = 0, **options: Any) -> Path:
    ids = [f"row {start + k}" for k in range(len(X))]
    return featx.write_cache(path, X, labels=labels, ids=ids, encoder="e", **options)


def model_of(folder: Path, head: str, labels: Any = None, **options: Any) -> tuple[Path, Any, Any]:
    X, names = rows(150, 3, 1)
    y = names if labels is None else labels(X)
    cache = written(folder / "old.h5", X, y)
    featx.fit(cache, head, folder / "m.featx", **options)
    return folder / "m.featx", X, y


def decided(model: Any, X: Any) -> Any:
    estimator = model.estimator
    if not model.classes:
        return estimator.predict(X)
    inner = getattr(estimator, "calibrated_classifiers_", None)
    said = (estimator if inner is None else inner[0].estimator).decision_function(X)
    return said - said.mean(axis=1, keepdims=True) if said.ndim == 2 and inner is None else said


def double(head: str, model: Any, X: Any, y: Any) -> Any:
    """Fit what scikit-learn fits in float64, with the model's strength."""
    name = STREAMED[head]
    params = {name: model.figures["chosen"]["params"][name]}
    return refit(HEADS[head].build(), params, (X.astype(np.float64), np.asarray(y), None), None)


def test_ridge_and_lda_take_rows_and_classes_in_as_a_fit_on_all_rows_would(tmp_path: Path) -> None:
    new, names = rows(70, 5, 2)
    for head in ("ridge", "lda"):
        path, X, y = model_of(tmp_path, head)
        cache = written(tmp_path / "new.h5", new, names, start=150)
        found = featx.fit(cache, update=path, out=tmp_path / "n.featx")
        model = featx.load_model(tmp_path / "n.featx")
        assert model.classes == found.classes == sorted({*y, *names})
        every, labels = np.concatenate([X, new]), [*y, *names]
        wanted = double(head, model, every, labels).estimator
        ours, theirs = decided(model, every), wanted.decision_function(every.astype(float))
        theirs = theirs - theirs.mean(axis=1, keepdims=True) * (head == "lda")
        assert np.abs(ours - theirs).max() < 1e-6 * np.abs(theirs).max(), head
        # Probabilities too, as all old rows are kept: those of a streamed fit on all rows.
        whole = search_blocks(HEADS[head], Blocks.of(every), np.array(labels), seed=0)
        if whole.best_params == {
            STREAMED[head]: wanted["clf"].get_params()[STREAMED[head].removeprefix("clf__")]
        }:
            ours = model.estimator.predict_proba(every)
            assert np.abs(ours - whole.estimator.predict_proba(every)).max() < 1e-6
        assert (found.n_test, found.trained_on, model.meta["n_train"]) == (70, 220, 220)
        assert sum(model.meta["class_counts"]) == 220
        assert found.accuracy.value < 1, "rows that overlap cannot all be right unless seen"
        with pytest.raises(FeatxError, match="trained on every labelled row"):
            featx.evaluate(model, cache)


def test_a_number_and_row_weights(tmp_path: Path) -> None:
    X, _ = rows(150, 3, 1)
    new, _ = rows(40, 3, 2)
    rng = np.random.default_rng(3)
    y, more = (part @ np.arange(WIDTH) + rng.normal(size=len(part)) for part in (X, new))
    w, v = rng.uniform(0.5, 2, 150), rng.uniform(0.5, 2, 40)
    written(tmp_path / "old.h5", X, y, columns={"w": w})
    featx.fit(tmp_path / "old.h5", "ridge-reg", tmp_path / "m.featx", weights_column="w")
    written(tmp_path / "new.h5", new, more, start=150, columns={"w": v})
    featx.fit(tmp_path / "new.h5", update=tmp_path / "m.featx")
    model = featx.load_model(tmp_path / "m.featx")  # replaced where it lies
    every = np.concatenate([X, new]).astype(np.float64)
    params = {"clf__alpha": model.figures["chosen"]["params"]["clf__alpha"]}
    given = (every, np.concatenate([y, more]), np.concatenate([w, v]))
    wanted = refit(HEADS["ridge-reg"].build(), params, given, None).estimator.predict(every)
    assert np.abs(decided(model, every) - wanted).max() < 1e-6 * np.abs(wanted).max()
    assert model.meta["updates"][0]["rows"] == 150


def test_an_update_of_an_update_of_a_grown_cache_is_a_fit_on_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "_ROW_BYTES", 4 * WIDTH * 60)  # 60 old rows are kept
    path, X, y = model_of(tmp_path, "ridge")
    for k, seed in ((3, 2), (4, 3)):
        more, names = rows(30, k, seed)
        X, y = np.concatenate([X, more]), [*y, *names]
        cache = written(tmp_path / "grown.h5", X, y, force=True)
        found = featx.fit(cache, update=path)
        assert found.excluded == {"in the model already": len(y) - 30}
    model = featx.load_model(path)
    sums = read_sums(model)
    assert sums is not None
    assert len(sums.at) <= 60
    assert np.array_equal(sums.X, X[sums.at])
    wanted = double("ridge", model, X, y).estimator.decision_function(X.astype(float))
    assert np.abs(decided(model, X) - wanted).max() < 1e-6 * np.abs(wanted).max()
    table = model.predict(X[:5]).to_frame()
    assert np.allclose(table.filter(like="p_").sum(axis=1), 1)
    assert list(table["nearest"]) == [f"row {k}" for k in range(5)]


def test_groups_stay_together_across_old_and_new_rows(tmp_path: Path) -> None:
    X, y = rows(120, 3, 1)
    person = [f"p{k // 6}" for k in range(120)]
    written(tmp_path / "old.h5", X[:90], y[:90], groups=person[:90])
    featx.fit(tmp_path / "old.h5", "ridge", tmp_path / "m.featx")
    written(tmp_path / "new.h5", X[90:], y[90:], start=90, groups=person[90:])
    model = featx.load_model(tmp_path / "m.featx")
    sums = read_sums(model)
    assert sums is not None
    assert len(np.unique(sums.groups)) == 15
    featx.fit(tmp_path / "new.h5", update=tmp_path / "m.featx")
    grown = read_sums(featx.load_model(tmp_path / "m.featx"))
    assert grown is not None
    assert len(np.unique(grown.groups)) == 20


def test_other_heads_and_old_models_are_fitted_again_and_say_so(tmp_path: Path) -> None:
    more, names = rows(40, 4, 2)
    for head, reason in (("svm", "cannot take rows in"), ("ridge", "holds no sums")):
        path, X, y = model_of(tmp_path, head)
        old = featx.load_model(path)
        save_model(
            dataclasses.replace(old, members={k: v for k, v in old.members.items() if k != SUMS}),
            path,
        )
        new = written(tmp_path / "new.h5", more, names, start=150)
        with pytest.raises(FitError, match=rf"{reason}.*lacks 150 of 150"):
            featx.fit(new, update=path)
        both = written(tmp_path / "both.h5", np.concatenate([X, more]), [*y, *names])
        found = featx.fit(both, update=path)
        assert found.chosen["params"] == old.figures["chosen"]["params"]
        assert "refitted" in [w["code"] for w in found.warnings]
        assert found.trained_on == 190
        for file in (new, both):
            file.unlink()


def test_what_cannot_be_taken_in_is_refused_in_one_line(tmp_path: Path) -> None:
    path, X, y = model_of(tmp_path, "ridge")
    more, names = rows(30, 3, 2)
    count = iter(range(99))

    def cache(X: Any, labels: Any, start: int = 150, **options: Any) -> Path:
        ids = [f"row {start + k}" for k in range(len(X))]
        given = {"labels": labels, "ids": ids, "encoder": "e"} | options
        return featx.write_cache(tmp_path / f"c{next(count)}.h5", X, **given)

    number = np.arange(30) + 0.5
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (cache(X, y, 0), {}, "has no row to take in"),
        (cache(more, names, encoder="other"), {}, "trained on other features"),
        (cache(np.hstack([more, more]), names), {}, "takes 12 features a row, and .* has 24"),
        (cache(more, number), {}, "predicts classes, and labels are numbers"),
        (cache(X, ["class 2", *y[1:]], 0), {}, "'row 0' is class 2 now and was class 0"),
        (cache(X + 1, y, 0), {}, "'row 0' is another picture than when"),
        (cache(more, None), {}, "has no labels"),
        (cache(more, ["only", *names[1:]]), {}, "class 'only' has 1 row"),
        (cache(more, names), {"head": "svm"}, "leave out --head"),
        (cache(more, names), {"folds": 3}, "leave out --folds"),
    ]
    before = path.read_bytes()
    for file, options, words in cases:
        with pytest.raises(FeatxError, match=words) as caught:
            featx.fit(file, update=path, **options)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    featx.fit(tmp_path / "old.h5", "ridge", tmp_path / "sets.featx", sets=0.9)
    with pytest.raises(FitError, match="thresholds or sets"):
        featx.fit(cases[-1][0], update=tmp_path / "sets.featx")
    number_model, _, _ = model_of(tmp_path, "ridge-reg", lambda X: X[:, 0] * 2.5, force=True)
    with pytest.raises(FitError, match="labels hold text that is not a number"):
        featx.fit(cases[-1][0], update=number_model)


def test_sums_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path, _, _ = model_of(tmp_path, "lda")
    model = featx.load_model(path)
    with np.load(io.BytesIO(model.members[SUMS])) as file:
        arrays = dict(file)
    other = io.BytesIO()
    np.savez(other, **{**arrays, "y": arrays["y"][:9]})
    for data in (b"", model.members[SUMS][:500], other.getvalue()):
        broken = dataclasses.replace(model, members={**model.members, SUMS: data})
        with pytest.raises(ModelError, match=r"sums.npz does not fit"):
            read_sums(broken)


def test_the_command_replaces_the_model(tmp_path: Path, shell: Shell) -> None:
    path, _, _ = model_of(tmp_path, "ridge")
    more, names = rows(30, 3, 2)
    cache = written(tmp_path / "new.h5", more, names, start=150)
    page = tmp_path / "r.html"
    line = ["fit", str(cache), "--update", str(path), "--report", str(page), "--json"]
    ended = shell(*line)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert (found["trained_on"], found["n_test"], found["model"]) == (180, 30, str(path))
    assert "--update" in page.read_text()
    assert shell(*line).returncode == 1
