"""compare: same rows, same folds, and a winner whose score is not the best of many."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from coloured import save_coloured
from PIL import Image
from scipy.stats import multivariate_normal

from featx import compare
from featx.errors import FitError
from featx.extraction.extraction import extract
from featx.fitting.leaderboard import Entry, draw_leaderboard, pareto_front
from featx.fitting.transferability import evidence, logme
from featx.streaming import Blocks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Path:
    found = tmp_path_factory.mktemp("comparing")
    save_coloured(found / "some", 40)
    extract(found / "some", found / "small.h5", **tiny | {"input_size": 16})
    extract(found / "some", found / "large.h5", **tiny | {"layers": ("grid", "flatten")})
    return found


def test_every_cache_tap_and_head_has_a_line(folder: Path) -> None:
    caches = [folder / "small.h5", folder / "large.h5"]
    found = compare(caches, heads=["svm", "ridge"], folds=3, out=folder / "l.csv")
    lines = {(Path(r.cache).name, r.tap, r.head) for r in found.rows}
    taps = [("small.h5", "flatten"), ("large.h5", "grid"), ("large.h5", "flatten")]
    assert lines == {(c, t, h) for c, t in taps for h in ("svm", "ridge")}
    values = [r.score["value"] for r in found.rows]
    assert values == sorted(values, reverse=True)
    assert found.n_samples == 40
    assert found.baseline["accuracy"]["value"] == 0.5
    assert sum(found.selected["chosen"].values()) == 3
    assert {r.bytes_per_image for r in found.rows} == {4 * 48, 4 * 3}
    table = pd.read_csv(folder / "l.csv")
    assert len(table) == 6
    assert {"accuracy", "low", "high", "logme", "pareto"} <= set(table)


@pytest.mark.slow
def test_choosing_among_many_useless_lines_is_worth_the_baseline(
    folder: Path, tiny: dict[str, Any]
) -> None:
    """The best line on labels drawn by lot looks good; choosing it by the search is not."""
    rng = np.random.default_rng(3)
    table = pd.DataFrame({"path": sorted(str(p) for p in (folder / "some").rglob("*.png"))})
    table["label"] = rng.permutation(["a", "b"] * 20)
    table.to_csv(folder / "lot.csv", index=False)
    caches = []
    for size in (8, 32):
        caches.append(folder / f"lot{size}.h5")
        extract(folder / "lot.csv", caches[-1], **tiny | {"input_size": size})
    found = compare(caches, heads=["svm", "ridge", "lda", "knn"], folds=4)
    best = found.rows[0].score["value"]
    assert found.selected["score"]["value"] < best
    assert found.selected["score"]["low"] < 0.5 < found.selected["score"]["high"]


def test_features_that_stay_in_the_file_make_the_same_board(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caches = [folder / "large.h5"]
    held = compare(caches, heads=["ridge", "lda"], folds=3, memory="ram")
    with caplog.at_level("INFO", "featx"):
        streamed = compare(caches, heads=["ridge", "lda"], folds=3, memory="stream")
    said = [line for line in caplog.messages if "read in blocks, as asked" in line]
    assert len(said) == 4  # each tap with each head
    assert len(streamed.rows) == 4
    for one, other in zip(held.rows, streamed.rows, strict=True):
        assert (one.tap, one.head, one.score) == (other.tap, other.head, other.score)
        assert one.logme == pytest.approx(other.logme, rel=1e-9)
    with pytest.raises(FitError, match="head knn as set up here needs all rows in memory"):
        compare(caches, heads=["knn"], folds=3, memory="stream")


def test_rows_that_not_all_have_are_left_out(folder: Path, tiny: dict[str, Any]) -> None:
    save_coloured(folder / "more", 46)
    extract(folder / "more", folder / "more.h5", **tiny)
    found = compare([folder / "more.h5", folder / "small.h5"], heads=["ridge"], folds=2)
    assert found.n_samples == 40
    assert found.excluded == {"not in every cache": 6}


@pytest.mark.parametrize("memory", ["ram", "stream"])
def test_rows_in_another_order_are_the_same_rows(
    folder: Path, tiny: dict[str, Any], memory: str
) -> None:
    rng = np.random.default_rng(7)
    table = pd.DataFrame({"path": sorted(str(p) for p in (folder / "some").rglob("*.png"))})
    table["label"] = rng.permutation(["a", "b"] * 20)
    shuffled = table.iloc[rng.permutation(len(table))]
    for name, rows in {"first": table, "second": shuffled}.items():
        rows.to_csv(folder / f"{name}.csv", index=False)
        extract(folder / f"{name}.csv", folder / f"{name}.h5", **tiny)
    caches = [folder / "first.h5", folder / "second.h5"]
    for given in (caches, caches[::-1]):
        found = compare(given, heads=["ridge", "lda"], folds=3, memory=memory)
        one, other = ([r for r in found.rows if Path(r.cache) == c] for c in caches)
        assert [(r.head, r.score) for r in one] == [(r.head, r.score) for r in other]
        assert one[0].score["value"] < 1
        assert [r.logme for r in one] == pytest.approx([r.logme for r in other], rel=1e-9)


def test_a_head_that_cannot_is_refused_before_any_is_fitted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[str] = []
    monkeypatch.setattr(
        "featx.fitting.streamed.search_blocks", lambda head, *rest, **how: fitted.append(head.name)
    )
    with pytest.raises(FitError, match="head knn as set up here needs all rows in memory"):
        compare([folder / "small.h5"], heads=["ridge", "knn"], folds=3, memory="stream")
    assert fitted == []


def test_labels_that_disagree_are_named(folder: Path, tiny: dict[str, Any]) -> None:
    paths = sorted((folder / "some").rglob("*.png"))
    names = [str(p.relative_to(folder / "some")) for p in paths]
    pd.DataFrame(
        {"path": paths, "id": names, "label": ["red", *["blue"] * 20, *["red"] * 19]}
    ).to_csv(folder / "odd.csv", index=False)
    extract(folder / "odd.csv", folder / "odd.h5", **tiny)
    with pytest.raises(FitError, match=r"calls 'blue/001.png' 'red', and the first .* 'blue'"):
        compare([folder / "small.h5", folder / "odd.h5"], heads=["svm"])


def test_nothing_in_common(folder: Path, tiny: dict[str, Any]) -> None:
    extract(sorted((folder / "some" / "red").iterdir()), folder / "bare.h5", **tiny)
    with pytest.raises(FitError, match="has no labels"):
        compare([folder / "bare.h5"])
    with pytest.raises(FitError, match="nothing to compare"):
        compare([])


def entry(score: float, n_bytes: int, ms: float | None) -> Entry:
    figure = {"value": score, "low": score, "high": score}
    return Entry("c", "b", "t", "h", 1, figure, 0.0, 0.0, n_bytes, ms)


def test_pareto_front() -> None:
    entries = [entry(0.9, 8, 2.0), entry(0.9, 4, 2.0), entry(0.8, 4, 1.0), entry(0.7, 8, 1.0)]
    assert pareto_front(entries).tolist() == [False, True, True, False]
    # A cache of unknown time must not win or lose by it.
    assert pareto_front([*entries[:2], entry(0.8, 4, None)]).tolist() == [False, True, False]


@pytest.mark.parametrize("shape", [(30, 5), (12, 20)])
def test_evidence_is_that_of_the_gaussian_process(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=shape)
    y = X @ rng.normal(size=shape[1]) + rng.normal(size=shape[0])
    left, singular, _ = np.linalg.svd(X, full_matrices=False)
    found, alpha, beta = evidence(singular**2, (left.T @ y) ** 2, float(y @ y), *shape)
    covariance = np.eye(shape[0]) / beta + X @ X.T / alpha
    assert found == pytest.approx(multivariate_normal(np.zeros(shape[0]), covariance).logpdf(y))
    for other in ((alpha * 1.3, beta), (alpha, beta * 1.3)):
        covariance = np.eye(shape[0]) / other[1] + X @ X.T / other[0]
        assert multivariate_normal(np.zeros(shape[0]), covariance).logpdf(y) <= found + 1e-6


@pytest.mark.parametrize("width", [5, 80])
def test_better_features_have_a_higher_score(width: int) -> None:
    rng = np.random.default_rng(1)
    y = np.array(["a", "b", "c"])[rng.integers(0, 3, 60)]
    noise = rng.normal(size=(60, width))
    shifted = noise + 2.0 * (y[:, None] == np.array(["a", "b", "c"])[np.arange(width) % 3])
    assert logme(shifted, y) > logme(noise, y)
    in_blocks = Blocks.of(shifted, step=7)
    assert logme(in_blocks, y) == pytest.approx(logme(shifted, y), rel=1e-9)


def test_the_plot_is_a_picture_that_can_be_made_again(folder: Path) -> None:
    caches = [folder / "small.h5", folder / "large.h5"]
    found = compare(caches, heads=["ridge"], folds=3, plot=folder / "l.png")
    with Image.open(folder / "l.png") as picture:
        assert picture.size == (1200, 750)
        colours = {colour: n for n, colour in picture.convert("RGB").getcolors(1 << 20) or []}
        assert colours[0x1B, 0x6C, 0xA8] > 100  # the front's marks are inside the picture
    assert draw_leaderboard(found, folder / "again.png") == folder / "again.png"
    assert (folder / "again.png").read_bytes() == (folder / "l.png").read_bytes()
    odd = [replace(row, cache="虫 $x$.h5") for row in found.rows]
    draw_leaderboard(replace(found, rows=odd), folder / "odd.png")
    with pytest.raises(FitError, match=r"the suffix is '\.svg'; expected \.png"):
        compare(caches, heads=["ridge"], plot=folder / "l.svg")


def test_features_that_are_all_zero_have_an_evidence() -> None:
    y = np.array(["a", "b"] * 20)
    nothing = logme(np.zeros((40, 3)), y)
    assert np.isfinite(nothing)
    assert nothing < logme(np.eye(3)[[0, 1] * 20] + 0.0, y)
