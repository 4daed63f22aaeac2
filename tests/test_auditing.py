"""What an audit finds, on arrays whose faults are known."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

from featx.auditing import (
    Stratum,
    blurred,
    confirm_copies,
    estimate_rate,
    faults_of,
    find_outliers,
    label_issues,
    nearest_rows,
    review_sample,
    sharpness,
    sketch_of,
)
from featx.errors import FeatxError, FitError


def patches(n: int, side: int = 120, seed: int = 0) -> list[np.ndarray]:
    """Different parts of two photographs."""
    rng, photographs = np.random.default_rng(seed), load_sample_images().images
    found = []
    for k in range(n):
        image = photographs[k % 2]
        y, x = rng.integers(0, image.shape[0] - side), rng.integers(0, image.shape[1] - side)
        found.append(image[y : y + side, x : x + side].copy())
    return found


def plain_patches(n: int) -> list[np.ndarray]:
    """Cuts that are not nearly white: a brighter copy keeps what they show."""
    return [p for p in patches(4 * n) if np.percentile(p, 95) < 230 and p.std() > 15][:n]


def copies(pixels: np.ndarray) -> list[np.ndarray]:
    """The picture saved as a poor JPEG, at half its size, and brighter."""
    image, file = Image.fromarray(pixels), io.BytesIO()
    image.save(file, "JPEG", quality=60)
    half = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
    bright = ImageEnhance.Brightness(image).enhance(1.1)
    return [np.asarray(Image.open(file).convert("RGB")), np.asarray(half), np.asarray(bright)]


@pytest.mark.parametrize("block", [3, 16_384])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_nearest_rows_are_those_of_a_full_sort(
    metric: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featx.auditing.neighbours.BLOCK_ROWS", block)
    monkeypatch.setattr("featx.auditing.neighbours._QUERIES", 4)
    rng = np.random.default_rng(0)
    X, queries = rng.normal(size=(50, 7)).astype(np.float32), rng.normal(size=(9, 7))
    if metric == "cosine":
        unit = X / np.linalg.norm(X, axis=1)[:, None]
        known = (queries / np.linalg.norm(queries, axis=1)[:, None]) @ unit.T
    else:
        known = -np.linalg.norm(queries[:, None] - X[None], axis=2)
    rows, similarity = nearest_rows(X, queries, 5, metric=metric)  # type: ignore[arg-type]
    assert rows.tolist() == np.argsort(-known, axis=1)[:, :5].tolist()
    assert np.allclose(similarity, np.take_along_axis(known, rows, 1), atol=1e-5)


def test_a_row_is_not_its_own_neighbour_and_only_allowed_rows_are_found() -> None:
    X = np.eye(6) + 0.1
    rows, similarity = nearest_rows(X, X, 9, exclude=np.arange(6))
    assert rows.shape == (6, 6)
    assert all(row not in found for row, found in enumerate(rows))
    assert (rows[:, -1] == -1).all()
    assert np.isneginf(similarity[:, -1]).all()
    allowed = np.array([False, True, False, False, True, False])
    assert set(nearest_rows(X, X, 9, allowed=allowed)[0].ravel()) == {1, 4}


def test_searches_that_cannot_be_are_refused() -> None:
    with pytest.raises(FeatxError, match="k must be"):
        nearest_rows(np.eye(3), np.eye(3), 0)
    with pytest.raises(FeatxError, match=r"shape \(3, 2\); expected \(n_queries, 3\)"):
        nearest_rows(np.eye(3), np.ones((3, 2)), 1)


def test_copies_are_confirmed_and_other_pictures_are_not() -> None:
    pictures = plain_patches(60)
    sketches = [sketch_of(p) for p in pictures]
    pairs = []
    for k, picture in enumerate(pictures[:30]):
        for copy in copies(picture):
            pairs.append((k, len(sketches)))
            sketches.append(sketch_of(copy))
    assert (confirm_copies(sketches, np.array(pairs)) > 0).mean() == 1.0
    others = np.array([(a, b) for a in range(len(pictures)) for b in range(a)])
    # Two cuts of one photograph may overlap: those that do not are at most alike.
    assert (confirm_copies(sketches, others) > 0).sum() == 0


def test_pictures_that_share_a_frame_are_not_copies() -> None:
    rng = np.random.default_rng(0)
    frame = np.full((96, 96, 3), 128, np.uint8)
    frame[::12], frame[:, ::16] = 0, 255
    noise = np.kron(rng.normal(0, 18, (300, 24, 24)), np.ones((4, 4)))[..., None]
    scans = list(np.clip(frame + noise, 0, 255).astype(np.uint8))
    sketches = [sketch_of(s) for s in scans] + [sketch_of(copies(scans[0])[0])]
    found = confirm_copies(sketches, np.array([(0, 1), (2, 3), (0, 300)]))
    assert (found > 0).tolist() == [False, False, True]


def test_faults_of_pixels() -> None:
    picture = patches(1)[0]
    assert faults_of(picture) == []
    assert faults_of(np.full((50, 50, 3), 90, np.uint8)) == ["blank"]
    assert faults_of(picture // 8) == ["dark"]
    assert faults_of(230 + picture // 11) == ["bright"]
    assert faults_of(picture[:31]) == ["tiny"]
    assert faults_of(np.repeat(picture[:40], 3, axis=1)) == ["odd shape"]


def test_a_blurred_picture_among_sharp_ones() -> None:
    from PIL import ImageFilter

    pictures = [p for p in patches(60) if sharpness(p) > 0.6][:20]
    soft = Image.fromarray(pictures[3]).filter(ImageFilter.GaussianBlur(8))
    pictures[3] = np.asarray(soft)
    found = blurred(np.array([sharpness(p) for p in pictures]))
    assert found[3]


def test_outliers_are_far_from_their_neighbours() -> None:
    near = 0.9 + np.random.default_rng(0).uniform(-0.02, 0.02, (100, 5))
    near[[7, 31]] = 0.2
    rows, scores = find_outliers(near)
    assert sorted(rows.tolist()) == [7, 31]
    assert scores[7] > 3.5 > np.delete(scores, [7, 31]).max()


def test_planted_label_errors_come_first() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(400) % 4
    p = rng.dirichlet(np.ones(4), 400) * 0.3
    p[np.arange(400), y] += 0.7
    names = np.array([f"c{k}" for k in y])
    wrong = rng.choice(400, 20, replace=False)
    names[wrong] = [f"c{(y[k] + 1) % 4}" for k in wrong]
    found = label_issues(names, p, ["c0", "c1", "c2", "c3"])
    assert set(np.argsort(found.quality)[:20]) == set(wrong)
    assert set(found.ranked) <= set(wrong)
    assert len(found.ranked) >= 15
    assert all(found.suggested[k] == f"c{y[k]}" for k in wrong)


def test_rows_of_one_class_and_classes_of_one_row_are_judged() -> None:
    p = np.array([[0.9, 0.1]] * 5 + [[1e-6, 1 - 1e-6]])
    one = label_issues(np.array(["a"] * 6), p, ["a", "b"])
    assert one.quality.argmin() == 5
    assert one.suggested[5] == "b"
    two = label_issues(np.array(["a"] * 5 + ["b"]), p, ["a", "b"])
    assert not two.flagged.any()


def test_planted_errors_among_several_labels_and_numbers() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (300, 3)).astype(np.int8)
    p = np.clip(y * 0.9 + 0.05 + rng.normal(0, 0.02, y.shape), 0.01, 0.99)
    y[5] = 1 - y[5]
    assert label_issues(y, p, ["a", "b", "c"], task="multilabel").ranked[0] == 5
    target = rng.normal(size=300)
    predicted = target + rng.normal(0, 0.1, 300)
    target[8] += 5
    found = label_issues(target, predicted, [], task="regression")
    assert found.ranked[0] == 8
    assert found.suggested[8] == predicted[8]


def test_a_review_draws_half_of_its_rows_from_those_flagged() -> None:
    flagged = np.zeros(1000, bool)
    flagged[:80] = True
    sample = review_sample(flagged, 100, seed=1)
    assert [sum(s == name for _, s, _ in sample) for name in ("flagged", "other")] == [50, 50]
    assert {(s, size) for _, s, size in sample} == {("flagged", 80), ("other", 920)}
    assert all((row < 80) == (stratum == "flagged") for row, stratum, _ in sample)
    few = review_sample(flagged, 400, seed=1)
    assert sum(s == "flagged" for _, s, _ in few) == 80
    assert len({row for row, _, _ in few}) == 400


def test_the_rate_of_a_full_review_is_known() -> None:
    found = estimate_rate([Stratum(40, 40, 10), Stratum(60, 60, 3)])
    assert found == {"value": 0.13, "low": 0.13, "high": 0.13}
    with pytest.raises(FitError, match="none of 60 rows"):
        estimate_rate([Stratum(40, 40, 10), Stratum(60, 0, 0)])


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.02, 0.05, 0.15])
def test_the_interval_of_the_rate_holds_the_truth(rate: float) -> None:
    rng, n, held = np.random.default_rng(0), 2000, 0
    for run in range(300):
        wrong = rng.random(n) < rate
        flagged = np.where(wrong, rng.random(n) < 0.7, rng.random(n) < 0.03)
        sample = review_sample(flagged, 200, seed=run)
        strata = []
        for name in ("flagged", "other"):
            rows = [row for row, stratum, _ in sample if stratum == name]
            size = next(s for _, stratum, s in sample if stratum == name)
            strata.append(Stratum(size, len(rows), int(wrong[rows].sum())))
        found = estimate_rate(strata, seed=run)
        held += found["low"] <= wrong.mean() <= found["high"]
    assert 0.93 <= held / 300 <= 0.985


def test_a_cosine_similarity_is_never_beyond_one() -> None:
    X = np.random.default_rng(0).normal(size=(200, 512)).astype(np.float32)
    rows, similarity = nearest_rows(X, X, k=1)
    assert (rows[:, 0] == np.arange(200)).all()
    np.testing.assert_allclose(similarity, 1, atol=1e-6)
    assert similarity.max() <= 1
    assert nearest_rows(X, -X, k=200)[1].min() >= -1
