"""Each bound from both sides: just within it, and just beyond."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional

import featx
from featx.cache.lock import WriterLock
from featx.errors import CacheError, CacheLockedError, FitError
from featx.evaluation.conformal import members, set_cuts
from featx.evaluation.decisions import laxest_cut
from featx.images import decoder_spec, draw_pixels
from featx.preprocess import Preprocess, parse_views
from featx.runtime.checking import MIN_COSINE, Check, lowest_cosine, worst_row
from featx.selection.candidates import at_edge, simplest_within
from featx.slices import Slice, SliceCounter

# Fast paths beside float32


def turned(X: Any, row: int, cosine: float) -> Any:
    """Turn one row so that its cosine with what it was is as given."""
    found = X.astype(np.float64)
    across = np.roll(found[row], 1)
    across -= found[row] * (across @ found[row]) / (found[row] @ found[row])
    across *= np.linalg.norm(found[row]) / np.linalg.norm(across)
    found[row] = cosine * found[row] + math.sqrt(1 - cosine**2) * across
    return found.astype(np.float32)


@pytest.fixture
def taps() -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(5, width)).astype(np.float32) for width in (8, 3, 6)]


@pytest.mark.parametrize("tap", [0, 1, 2])
@pytest.mark.parametrize("row", [0, 4])
def test_one_row_of_one_tap_that_disagrees_fails_the_check(
    taps: list[Any], tap: int, row: int
) -> None:
    assert MIN_COSINE == 0.999
    check = Check(np.zeros((5, 2, 2, 3), np.uint8), taps)
    assert check.passes(lambda _: taps, "fast")
    for cosine, passes in ((0.99901, True), (0.99899, False)):
        other = [turned(X, row, cosine) if k == tap else X for k, X in enumerate(taps)]
        assert lowest_cosine(taps, other) == pytest.approx(cosine, abs=2e-6)
        assert check.passes(lambda _, other=other: other, "fast") is passes


@pytest.mark.parametrize("tap", [0, 1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_no_number_fails_the_check(taps: list[Any], tap: int, value: float) -> None:
    other = [X.copy() for X in taps]
    other[tap][3, 1] = value
    assert lowest_cosine(taps, other) == -1
    assert worst_row(taps, other) == math.inf
    assert not Check(np.zeros((5, 2, 2, 3), np.uint8), taps).passes(lambda _: other, "fast")


# The choice of parameters

COSTS = [{"clf__C": c} for c in (0.1, 1.0, 10.0)]


@pytest.mark.parametrize(
    ("means", "best", "edges"),
    [
        ([0.7, 0.6, 0.5], 0, ["clf__C"]),
        ([0.5, 0.6, 0.7], 2, ["clf__C"]),
        ([0.5, 0.7, 0.6], 1, []),
        ([0.7, 0.7, 0.5], 0, []),  # a plateau: the score has levelled off
        ([0.5, 0.7, 0.7], 2, []),
        ([0.5, 0.7, 0.7 + 0.9e-9], 2, []),
        ([0.5, 0.7, 0.7 + 1.1e-9], 2, ["clf__C"]),
        ([0.7 + 1.1e-9, 0.7, 0.5], 0, ["clf__C"]),
    ],
)
def test_an_end_of_the_grid_is_an_edge_unless_the_score_has_levelled_off(
    means: list[float], best: int, edges: list[str]
) -> None:
    assert at_edge(COSTS, np.array(means), best) == edges


@pytest.mark.parametrize(("mean", "chosen"), [(0.8423, 0), (0.8422, 1)])
def test_one_standard_error_is_the_deviation_by_the_root_of_the_folds(
    mean: float, chosen: int
) -> None:
    """Of 0.8, 0.9 and 1.0 it is 0.1 / sqrt(3) = 0.05774, so that 0.84226 is within it."""
    scores = np.array([[mean] * 3, [0.87] * 3, [0.8, 0.9, 1.0]])
    grids: Any = [{"clf__C": [0.1, 1.0, 10.0]}]
    assert simplest_within(COSTS, grids, scores, 2) == chosen


def test_with_one_fold_there_is_no_standard_error() -> None:
    grids: Any = [{"clf__C": [0.1, 1.0, 10.0]}]
    assert simplest_within(COSTS, grids, np.array([[0.8], [0.9], [0.9]]), 1) == 1


# Promises


def test_of_the_cuts_that_keep_the_promise_the_one_that_answers_most_is_taken() -> None:
    """The first sequence of tests ends at row 40; the one from 144 rows on reaches the end."""
    right = np.ones(200, bool)
    right[40:44] = False
    scores = np.linspace(1, 0.5, 200)
    cut = laxest_cut(right, scores, 0.9, confidence=0.9)
    assert cut is not None
    assert (cut.threshold, cut.answered, cut.value) == (0.0, 1.0, pytest.approx(196 / 200))
    alone = laxest_cut(right[:130], scores[:130], 0.9, confidence=0.9)
    assert alone is not None
    assert alone.answered == 40 / 130


def test_a_cut_lies_halfway_between_the_last_row_that_passed_and_the_next() -> None:
    right = np.r_[np.ones(60, bool), np.zeros(60, bool)]
    scores = np.r_[np.full(60, 0.8), np.full(60, 0.4)]
    cut = laxest_cut(right, scores, 0.9)
    assert cut is not None
    assert (cut.threshold, cut.answered, cut.value) == (pytest.approx(0.6), 0.5, 1.0)


def test_the_cut_of_a_set_is_the_value_at_its_rank() -> None:
    """Of nine rows and a new one, at most a fifth may lie below: two ranks of ten."""
    own = np.arange(1, 10) / 10
    table = np.c_[own, 1 - own]
    names = ["a"] * 9
    for coverage, cut in ((0.8, 0.2), (0.81, 0.1), (0.9, 0.1), (0.7, 0.3)):
        assert set_cuts(names, table, ["a"], coverage) == {"a": pytest.approx(cut)}
    with pytest.raises(FitError, match="take 10 rows of a class, and the largest has 9"):
        set_cuts(names, table, ["a"], 0.901)
    assert members({"a": 0.2, "b": None}, ["a", "b"], [[0.2, 0.0], [0.19, 0.0]]).tolist() == [
        [True, True],
        [False, True],
    ]


# Slices


def test_slices_of_a_file_have_each_row_once_and_differ_by_one_at_most() -> None:
    for n_rows in range(12):
        for total in range(1, 6):
            counters = [SliceCounter(Slice(k, total)) for k in range(1, total + 1)]
            parts = [one.takes_rows("a.parquet", n_rows) for one in counters]
            assert [row for part in parts for row in part] == list(range(n_rows))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


# Crops


@pytest.mark.parametrize("crop", [(4, 5), (5, 4), (7, 7)])
def test_odd_margins_are_cut_and_filled_as_torchvision_does(crop: tuple[int, int]) -> None:
    for size in [(h, w) for h in range(3, 11) for w in range(3, 11)]:
        pixels = np.random.default_rng(0).integers(1, 256, (*size, 3), dtype=np.uint8)
        how = Preprocess(input_size=crop, resize_size=(min(size), min(size)))
        drawn = np.empty(how.out_shape(), np.uint8)
        draw_pixels(pixels, how, drawn)
        wanted = functional.center_crop(Image.fromarray(pixels), list(crop))
        np.testing.assert_array_equal(drawn[0], np.asarray(wanted), err_msg=str(size))


TURNS = {
    "none": lambda p: p,
    "hflip": lambda p: p[:, ::-1],
    "vflip": lambda p: p[::-1],
    "rot180": lambda p: np.rot90(p, 2),
    "rot90": np.rot90,
    "rot270": lambda p: np.rot90(p, 3),
    "transpose": lambda p: p.swapaxes(0, 1),
    "transverse": lambda p: np.rot90(p, 2).swapaxes(0, 1),
}


@pytest.mark.parametrize("turn", list(TURNS))
def test_views_of_an_input_that_is_no_square_are_cut_before_they_are_turned(turn: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    how = Preprocess(input_size=(4, 7), resize_size=(9, 9), views=parse_views(turn))
    drawn = np.empty(how.out_shape(), np.uint8)
    draw_pixels(pixels, how, drawn)
    swapped = turn in ("rot90", "rot270", "transpose", "transverse")
    crop = functional.center_crop(Image.fromarray(pixels), [7, 4] if swapped else [4, 7])
    np.testing.assert_array_equal(drawn[-1], TURNS[turn](np.asarray(crop)))  # type: ignore[operator]


def test_a_picture_that_is_almost_square_fits_into_a_square_with_one_line_of_ground() -> None:
    """Resized into 32 x 32 it has 32 x 31 pixels, or 31 x 32."""
    for size in ((100, 97), (97, 100)):
        how = Preprocess(input_size=(32, 32), resize_size=(32, 32), resize="pad", mean=(0.0,) * 3)
        drawn = np.full(how.out_shape(), 7, np.uint8)
        draw_pixels(np.full((*size, 3), 200, np.uint8), how, drawn)
        ground = (drawn[0] == 0).all(axis=2)
        assert ground.sum() == 32
        assert (drawn[0][~ground] == 200).all()
        assert ground[:, -1].all() or ground[-1].all()


# The fingerprint


@pytest.mark.parametrize("library", ["pillow", "simplejpeg"])
def test_the_version_of_a_decoder_alone_is_another_fingerprint(
    library: str, monkeypatch: pytest.MonkeyPatch, photos: Path, tmp_path: Path, tiny: Any
) -> None:
    featx.extract(photos, tmp_path / "c.h5", **tiny)
    known = decoder_spec()

    def version(number: str) -> None:
        real = {"pillow": known["pillow"], "simplejpeg": known["simplejpeg"]}
        monkeypatch.setattr(
            "featx.images.policy.version", lambda name: {**real, library: number}[name]
        )

    version(f"{known[library]}.99.1")
    assert decoder_spec() == known
    version("99.0")
    assert decoder_spec() == known | {library: "99"}
    with pytest.raises(CacheError, match=rf"decode\.{library} {known[library]} -> 99"):
        featx.extract(photos, tmp_path / "c.h5", **tiny)


# Classes


@pytest.mark.parametrize("several", [False, True])
def test_classes_that_are_numbers_stand_by_their_value(
    several: bool, tmp_path: Path, photos: Path, tiny: dict[str, Any]
) -> None:
    """By their letters 10 would come first, and every code would mean another class."""
    files = sorted(photos.rglob("*.png"))[:4]
    labels = ["10|2", "9", "2", "10"] if several else ["10", "9", "2", "10"]
    rows = [f"{file},{label}" for file, label in zip(files, labels, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows]))
    featx.extract(tmp_path / "t.csv", tmp_path / "c.h5", **tiny)
    with h5py.File(tmp_path / "c.h5") as file:
        assert file["classes"].asstr()[...].tolist() == ["2", "9", "10"]
        codes = file["labels"][...].tolist()
    wanted = [[1, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]] if several else [2, 1, 0, 2]
    assert codes == wanted
    with featx.open_cache(tmp_path / "c.h5") as cache:
        assert cache.labels == (["2|10", *labels[1:]] if several else labels)
        assert list(cache.info()["classes"].items()) == [("2", 1 + several), ("9", 1), ("10", 2)]
    vectors = np.eye(4, dtype=np.float32)
    given = [tuple(label.split("|")) for label in labels] if several else labels
    featx.write_cache(tmp_path / "v.h5", vectors, labels=given)
    with featx.open_cache(tmp_path / "v.h5") as cache:
        assert cache.classes == ["2", "9", "10"]
        assert np.asarray(cache.y).tolist() == wanted


# Locks


def test_a_lock_that_was_replaced_before_it_was_held_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last holder removes its file between our opening and our locking of it."""
    from featx.cache import lock as locks

    real, path = locks._lock, tmp_path / "c.h5.lock"
    other: list[WriterLock] = []

    def late(handle: int) -> None:
        if not other:
            path.unlink()
            other.append(WriterLock(tmp_path / "c.h5"))
            monkeypatch.setattr(locks, "_lock", real)
            other[0].__enter__()
        real(handle)

    monkeypatch.setattr(locks, "_lock", late)
    with pytest.raises(CacheLockedError, match=f"process {os.getpid()}"):
        WriterLock(tmp_path / "c.h5").__enter__()
    assert path.exists()
    other[0].__exit__(None, None, None)
    assert not path.exists()


def test_a_holder_whose_lock_was_replaced_leaves_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "c.h5.lock"
    first, second = WriterLock(tmp_path / "c.h5"), WriterLock(tmp_path / "c.h5")
    with first:
        path.unlink()  # by hand, or by a tool that clears old locks
        second.__enter__()
    assert path.exists()
    with pytest.raises(CacheLockedError):
        WriterLock(tmp_path / "c.h5").__enter__()
    second.__exit__(None, None, None)
    assert not path.exists()


# Files that read back otherwise


@pytest.mark.parametrize("folder", [False, True])
def test_a_cache_that_reads_back_other_than_it_was_written_is_not_published(
    folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte of a vector changes on its way to the disk."""
    from featx.cache import split

    X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    featx.write_cache(tmp_path / "c.h5", X, labels=["a", "b"] * 3)
    old = (tmp_path / "c.h5").read_bytes()
    new, fsync, hit = X + 1, os.fsync, []
    if folder:
        featx.write_cache(tmp_path / "n.h5", new, labels=["a", "b"] * 3)

    def flushed(handle: int) -> None:
        fsync(handle)
        path = Path(f"/proc/self/fd/{handle}").readlink()
        data = path.read_bytes() if path.suffix == ".tmp" else b""
        at = data.find(new[4].tobytes())
        if at >= 0:
            hit.append(path)
            with path.open("r+b") as file:
                file.seek(at)
                file.write(bytes([data[at] ^ 1]))

    def write() -> None:
        if folder:
            split(tmp_path / "n.h5", tmp_path / "parts", rows=3)
        else:
            featx.write_cache(tmp_path / "c.h5", new, labels=["a", "b"] * 3)

    monkeypatch.setattr(os, "fsync", flushed)
    with pytest.raises(CacheError, match="reads back other than it was written"):
        write()
    assert hit
    assert (tmp_path / "c.h5").read_bytes() == old
    if folder:
        with pytest.raises(CacheError):
            featx.open_cache(tmp_path / "parts")
