"""Metrics of slices: intervals that hold together, and slices of too few rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Shell

import featx
from featx.errors import FitError
from featx.evaluation import evaluate
from featx.evaluation.slices import by_slice, rows_for_slice, slice_names


@pytest.mark.slow
def test_intervals_of_all_slices_hold_together() -> None:
    """Six slices of one accuracy: in 95 % of the draws each interval holds it."""
    rng = np.random.default_rng(0)
    names = np.repeat([f"s{k}" for k in range(6)], 30)
    together = 0
    for seed in range(60):
        y = rng.integers(0, 2, len(names))
        called = np.where(rng.random(len(names)) < 0.85, y, 1 - y)
        found = by_slice("site", names, y, called, seed=seed)["test"]
        ends = [one["accuracy"] for one in found.values()]
        together += all(one["low"] <= 0.85 <= one["high"] for one in ends)
    assert together >= 52  # 57 of 60, with a standard error of 1.7


def test_a_slice_is_measured_as_its_rows_alone_with_a_wider_interval() -> None:
    rng = np.random.default_rng(1)
    names, y = np.array(["a", "b"])[np.arange(200) % 2], rng.integers(0, 3, 200)
    table = rng.dirichlet(np.ones(3), 200)
    found = by_slice("site", names, y, table.argmax(axis=1), probabilities=table, classes=range(3))
    rows = names == "a"
    alone = evaluate(
        y[rows], table[rows].argmax(axis=1), probabilities=table[rows], classes=range(3)
    )
    for name in ("accuracy", "log_loss", "roc_auc"):
        one, other = found["test"]["a"][name], alone[name]
        assert one["value"] == other["value"]
        assert one["low"] < other["low"] < other["high"] < one["high"]


def test_groups_of_a_slice_are_what_counts() -> None:
    names, groups = np.repeat(["a", "b"], [100, 100]), np.arange(200) // 2
    groups[100:] = groups[100:] // 20  # b is of few groups
    y = np.arange(200) % 2
    found = by_slice("site", names, y, y, groups=groups)
    assert found["unit"] == "groups"
    assert found["few"] == {"b": len(np.unique(groups[100:]))}
    assert list(found["test"]) == ["a"]


def test_names_of_slices_and_the_rows_they_take() -> None:
    named = slice_names(np.array(["x", "", None, 3, 2.5, float("nan")], dtype=object))
    assert named.tolist() == ["x", "(empty)", "(empty)", "3", "2.5", "(empty)"]
    assert rows_for_slice(1) < rows_for_slice(20) < rows_for_slice(400)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sites; at one of them the labels are noise, and one has three rows."""
    place = tmp_path_factory.mktemp("slices") / "x.h5"
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 303)
    site = np.array(["north", "south", "tiny"])[np.repeat([0, 1, 2], [200, 100, 3])]
    X = rng.normal(size=(303, 4))
    X[:, 0] += np.where(site == "south", 0, 4 * y)
    featx.write_cache(
        place,
        X.astype(np.float32),
        labels=np.array(["cat", "dog"])[y],
        columns={"site": site, "age": rng.normal(size=303), "one": ["x"] * 303},
        encoder="drawn",
    )
    return place


def test_fit_and_evaluate_measure_the_same_slices(cache: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "m.featx", tmp_path / "m.html"
    found = featx.fit(cache, "logreg", out=out, slices="site", fit_on="train", report=page)
    test = found.slices["test"]
    assert set(test) | set(found.slices["few"]) == {"north", "south", "tiny"}
    assert sum(one["n_test"] for one in test.values()) + found.slices["few"]["tiny"] == 76
    assert test["south"]["accuracy"]["value"] < test["north"]["accuracy"]["value"]
    assert found.slices["below"] == ["south"]
    notes = {w["code"]: w["message"] for w in found.warnings}
    assert "tiny (" in notes["few-slice-rows"]
    assert f"it takes {rows_for_slice(3)} rows" in notes["few-slice-rows"]
    assert featx.evaluate(out, cache, slices="site").slices == found.slices
    assert "By site" in page.read_text()
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_shell_says_the_same(cache: Path, shell: Shell) -> None:
    line = ["fit", str(cache), "--head", "logreg", "--slices", "site"]
    done = shell(*line)
    assert done.returncode == 0, done.stderr
    assert sum("by site (intervals of 98.33 %" in row for row in done.stdout.splitlines()) == 1
    assert sum("few-slice-rows" in row for row in done.stdout.splitlines()) == 1
    told = json.loads(shell(*line, "--json").stdout.splitlines()[-1])
    assert told["slices"]["level"] == pytest.approx(1 - 0.05 / 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slices": "sit"}, "--slices 'sit': .* has no such column; did you mean site"),
        ({"slices": "age"}, "of the column's 303 values none has more than 1 rows, and a slice"),
        ({"slices": "site", "protocol": "clip"}, "--protocol clip and --slices exclude each other"),
    ],
)
def test_what_cannot_be_is_one_line(cache: Path, options: dict[str, Any], message: str) -> None:
    head = None if "protocol" in options else "logreg"
    with pytest.raises(FitError, match=message) as caught:
        featx.fit(cache, head, **options)
    assert "\n" not in str(caught.value)


def test_one_value_is_the_whole_at_95_percent(cache: Path) -> None:
    found = featx.fit(cache, "logreg", slices="one")
    assert found.slices["level"] == pytest.approx(0.95)
    assert found.slices["test"]["x"]["accuracy"] == found.test["accuracy"]


def test_numbers_have_slices_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3)).astype(np.float32)
    place = tmp_path / "n.h5"
    site = np.array(["a", "b"])[np.arange(200) % 2]
    featx.write_cache(place, X, labels=X[:, 0].astype(float), columns={"site": site}, encoder="e")
    found = featx.fit(place, "ridge-reg", slices="site")
    assert {"mae", "r2"} <= set(found.slices["test"]["a"])
    assert "by site" in repr(found)
