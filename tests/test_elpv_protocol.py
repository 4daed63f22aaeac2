"""The recipe of `make elpv`: its kernel, its splits and its table, on made-up cells."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.linalg import logm, sqrtm
from sklearn.metrics.pairwise import rbf_kernel

from featx.sources.builtin import BUILT_IN
from pipelines.elpv_kernels import logarithms, mean_kernels, prepare, scores_of
from pipelines.elpv_pictures import flattened, flattened_files
from pipelines.elpv_protocol import ALL, Cells, Pass, recipes, run, settle
from pipelines.elpv_table import SPLITS, as_text, summary


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(0)
    n = 240
    return Cells(
        probability=rng.choice([0, 1 / 3, 2 / 3, 1], n, p=[0.5, 0.15, 0.1, 0.25]),
        kind=rng.choice(["mono", "poly"], n),
        block=np.arange(n) // 12,
        digest=np.array([f"cell {k}" for k in range(n)]),
    )


@pytest.fixture(scope="module")
def taps(cells):
    rng = np.random.default_rng(1)
    signal = 3 * cells.probability[None, :, None]
    return [rng.normal(size=(4, len(cells.block), d)).astype(np.float32) + signal for d in (6, 9)]


def test_the_kernel_is_the_mean_over_all_pairs_of_views(taps):
    train = np.arange(0, 240, 2)
    X = prepare(taps, train)
    flat = X[:, train].reshape(-1, X.shape[2]).astype(np.float64)
    distance = 2 * (np.square(flat).sum(1).mean() - np.square(flat.mean(0)).sum())
    found = mean_kernels(X, train, (1.0, 2.0))
    for gamma in (1.0, 2.0):
        wanted = np.mean(
            [rbf_kernel(a, b, gamma=gamma / distance) for a in X.astype(float) for b in X], axis=0
        )
        wanted /= np.diag(wanted)[train].mean()
        np.testing.assert_allclose(found[gamma], wanted, atol=1e-4)


def test_the_order_of_the_views_does_not_matter(taps):
    train = np.arange(180)
    there, back = (
        mean_kernels(prepare([t[order] for t in taps], train), train, (2.0,))[2.0]
        for order in ([0, 1, 2, 3], [3, 1, 0, 2])
    )
    np.testing.assert_allclose(there, back, atol=1e-5)


def test_scaling_sees_training_rows_only(taps):
    train = np.arange(180)
    changed = [t.copy() for t in taps]
    for tap in changed:
        tap[:, 180:] *= 50
    before, after = prepare(taps, train), prepare(changed, train)
    np.testing.assert_array_equal(before[:, :180], after[:, :180])
    before, after = (mean_kernels(X, train, (2.0,))[2.0] for X in (before, after))
    np.testing.assert_allclose(before[:180, :180], after[:180, :180], atol=1e-6)


def test_passes_are_weighed_by_their_shares(taps, monkeypatch):
    train = np.arange(180)
    merged = [tap.mean(axis=0, keepdims=True) for tap in taps]  # as views that are put together
    passes = {
        "a": Pass("x", 300, "dihedral"),
        "b": Pass("x", 300, "dihedral", pool="cov", together=True, share=3),
    }
    monkeypatch.setattr("pipelines.elpv_protocol.PASSES", passes)
    monkeypatch.setattr("pipelines.elpv_protocol.FIRST", "a")
    (first, a), (every, total) = recipes({"a": taps, "b": merged}, train)
    assert (first, every) == ("a", ALL)
    unscaled = prepare(merged, train, scale=False)
    assert not np.allclose(unscaled, prepare(merged, train), atol=1e-3)
    np.testing.assert_allclose(np.square(unscaled).sum(axis=2), 2, atol=1e-5)  # one for each tap
    of_width = mean_kernels(unscaled, train, (0.25, 0.5, 1.0, 2.0, 4.0))
    for gamma in (1.0, 2.0, 4.0):
        b = (of_width[gamma / 4] + of_width[gamma / 2] + of_width[gamma]) / 3
        np.testing.assert_allclose(total[gamma], (a[gamma] + 3 * b) / 4, atol=1e-6)
        np.testing.assert_allclose(np.diag(b), 1, atol=1e-5)


def test_labels_of_other_rows_change_no_score(taps, cells):
    train, test = np.arange(180), np.arange(180, 240)
    K = mean_kernels(prepare(taps, train), train, (2.0,))[2.0]
    y, other = (cells.probability > 0.5).astype(int), (cells.probability > 0.5).astype(int)
    other[test] = 1 - other[test]
    first, second = (
        scores_of(K, v, np.ones(240), train, test, [1.0, 3.0], [0.0, 1.0]) for v in (y, other)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.allclose(first[0], first[1])
    alone = [scores_of(K, y, np.ones(240), train, test, [c], [0.0])[0] for c in (1.0, 3.0)]
    assert not np.allclose(*alone)
    np.testing.assert_allclose(first[0], np.mean(alone, axis=0), atol=1e-12)


def test_a_low_weight_makes_a_cell_count_less(taps, cells):
    rows = np.arange(240)
    K = mean_kernels(prepare(taps, rows), rows, (2.0,))[2.0]
    y = (cells.probability > 0.5).astype(int)
    doubted = np.flatnonzero(y)[0]
    y[doubted] = 0
    weight = np.ones(240)
    heavy = scores_of(K, y, weight, rows, rows, [3.0], [1.0])[0]
    weight[doubted] = 0.01
    light = scores_of(K, y, weight, rows, rows, [3.0], [1.0])[0]
    assert light[doubted] > heavy[doubted]


@pytest.mark.slow
def test_the_table_has_both_splits_both_conventions_and_each_type(taps, cells, monkeypatch):
    passes = dict.fromkeys("ab", Pass("x", 300, "dihedral"))
    monkeypatch.setattr("pipelines.elpv_protocol.PASSES", passes)
    monkeypatch.setattr("pipelines.elpv_protocol.FIRST", "a")
    rounds = list(run({"a": taps, "b": taps}, cells, repeats=2))
    table = summary(rounds)
    keys = {(r["recipe"], r["split"], r["label"], r["cells"]) for r in table}
    for split in ("random", "blocks"):
        for cell in ("all", "mono", "poly", "p 0 or 1"):
            assert (ALL, split, "p > 1/2", cell) in keys
            assert (ALL, split, "p > 0", cell) in keys
    best = next(r for r in table if r["recipe"] == ALL and r["cells"] == "all")
    assert best["accuracy"]["low"] <= best["accuracy"]["value"] <= best["accuracy"]["high"]
    assert best["accuracy"]["value"] > best["majority"]
    text = as_text(table, 2)
    assert "88.42" in text
    assert f"frozen: {ALL}" in text
    plain = [r for r in rounds if r["split"] in ("random", "blocks")]
    assert all(r["n_train"] + r["n_test"] == 240 for r in plain)
    assert {r["split"] for r in rounds} == set(SPLITS)
    head = next(line for line in text.splitlines() if "random" in line)
    assert [head.index(name) for name in SPLITS] == sorted(map(head.index, SPLITS))


def test_copies_made_before_the_split_are_flagged(taps, cells, monkeypatch):
    monkeypatch.setattr("pipelines.elpv_protocol.PASSES", {"a": Pass("x", 300, "dihedral")})
    monkeypatch.setattr("pipelines.elpv_protocol.FIRST", "a")
    noise = np.random.default_rng(2).normal(size=(240, 60)).astype(np.float32)
    # Cells that nothing but themselves resembles: only a copy in training tells the label.
    own = [np.stack([5 * noise] * 4)]
    rounds = list(run({"a": own}, cells, repeats=2, splits=["random", "augmented"]))
    each = {name: [r for r in rounds if r["split"] == name] for name in ("random", "augmented")}
    assert all(r["warnings"][0]["code"] == "duplicates-across-split" for r in each["augmented"])
    assert not any("warnings" in r for r in each["random"])
    accuracy = {k: np.mean([r["test"]["all"]["accuracy"] for r in v]) for k, v in each.items()}
    assert accuracy["augmented"] > 0.9 > accuracy["random"] + 0.15
    table = summary(rounds)
    wide = {r["split"]: r for r in table if r["cells"] == "all" and r["label"] == "p > 1/2"}
    # 960 rows are 240 cells: the interval is that of cells.
    assert wide["augmented"]["accuracy"]["low"] < 0.985
    assert "warning, augmented (2 repeats): 2" in as_text(table, 2)


@pytest.mark.slow
def test_shares_are_settled_without_the_other_half(taps, cells, monkeypatch):
    monkeypatch.setattr("pipelines.elpv_protocol.PASSES", dict.fromkeys("ab", Pass("x", 1, "none")))
    monkeypatch.setattr("pipelines.elpv_protocol.FIRST", "a")
    sure = np.rint(cells.probability)  # enough cells of each stratum in a half
    cells = replace(cells, probability=sure)
    rows, y = np.arange(0, 240, 2), cells.probability > 0.5
    noise = np.random.default_rng(3).normal(size=(1, 240, 5)).astype(np.float32)
    kernels = {
        "a": mean_kernels(prepare([noise], rows), rows, (1.0, 2.0, 4.0)),
        "b": mean_kernels(prepare(taps, rows), rows, (1.0, 2.0, 4.0)),
    }
    shares = settle(kernels, y, cells, rows)
    assert shares["b"] >= 1  # the pass that knows something comes in
    other = np.where(np.arange(240) % 2 == 0, y, ~y)
    assert settle(kernels, other, cells, rows) == shares
    found = list(run({"a": [noise], "b": taps}, cells, 2, ["other half"]))
    assert all(r["n_train"] == 180 and r["n_test"] == 60 for r in found)
    assert found[0]["shares"] == found[1]["shares"]


def test_logarithms_of_covariances():
    rng = np.random.default_rng(0)
    i, j = np.triu_indices(6)
    scale = np.where(i == j, 1, np.sqrt(2))
    maps = rng.normal(size=(2, 5, 40, 6)) * np.arange(1, 7)
    covariances = np.einsum("vnpc,vnpd->vncd", maps, maps)
    covariances /= np.trace(covariances, axis1=2, axis2=3)[..., None, None]
    roots = np.array([[sqrtm(C).real[i, j] * scale for C in view] for view in covariances])
    found = logarithms(3 * roots, floor=0.0)  # the scale of a covariance tells nothing
    wanted = np.array([[logm(C).real[i, j] * scale for C in view] for view in covariances])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert np.isfinite(logarithms(np.zeros((1, 1, 21)))).all()  # a layer that is silent everywhere


def test_a_flat_picture_keeps_what_rows_and_columns_do_not_explain():
    rows, columns = np.arange(40), 40 * (np.arange(50) % 10 == 0)
    picture = (rows[:, None] + columns + 20).astype(np.uint8)
    assert (flattened(picture) == 128).all()
    assert (flattened(np.full((8, 9), 7, np.uint8)) == 128).all()
    cracked = picture.copy()
    cracked[10:20, 23] -= 15
    found = flattened(cracked)
    assert found[10:20, 23].max() < 60 < np.median(found)


def test_flat_pictures_are_written_once_in_the_order_of_the_set(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.elpv_pictures.load_manifest", lambda name: BUILT_IN["digits"]())
    files = flattened_files(tmp_path)
    assert [file.stem for file in files] == list(BUILT_IN["digits"]().ids)
    assert sorted(tmp_path.iterdir()) == sorted(files)
    files[3].write_bytes(b"mine")
    assert flattened_files(tmp_path) == files
    assert files[3].read_bytes() == b"mine"
    with Image.open(files[0]) as picture:
        assert picture.size == (8, 8)
