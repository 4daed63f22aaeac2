"""A cache as a folder of parts: the same object, found by id, trusted in nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Shell
from test_cache import SPEC, flip, make_cache, make_rows
from test_merge import described

import featx
from featx.cache import open_cache, split
from featx.cache.folder import Folder, file_digest, holds_cache
from featx.cache.format import ID_INDEX, INDEX, create_column
from featx.cache.h5file import seal
from featx.cache.ids import find_rows, hash_ids, keys_of, write_id_index
from featx.cache.publish import Description, describes, target_path, write_cache
from featx.cache.reuse import KnownRows
from featx.cache.staging import ShardWriter, parts_folder
from featx.cache.verify import verify_file
from featx.errors import CacheError, CacheFormatError

N, PART = 1200, 500


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return make_cache(tmp_path / "c.h5", make_rows(N), **described(N))


@pytest.fixture
def folder(file: Path, tmp_path: Path) -> Path:
    split(file, tmp_path / "f", rows=PART)
    return tmp_path / "f"


def edit(path: Path, change: Callable[[h5py.File], None]) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def set_value(name: str, at: Any, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[name][at] = value

    return change


def first_part(folder: Path) -> Path:
    return min(folder.glob("part-*.h5"))


def test_both_forms_give_the_same_object(file: Path, folder: Path) -> None:
    with open_cache(file) as one, open_cache(folder) as many:
        assert many.n_parts == 3
        for name in ("ids", "paths", "split", "classes", "labels", "failed", "provenance", "taps"):
            assert getattr(many, name) == getattr(one, name), name
        assert many.spec == one.spec
        assert many.fingerprint == one.fingerprint
        np.testing.assert_array_equal(many.y, one.y)
        np.testing.assert_array_equal(many.content_digests, one.content_digests)
        for name in one.columns:
            np.testing.assert_array_equal(many.columns[name], one.columns[name])
        for tap in one.taps:
            np.testing.assert_array_equal(np.asarray(many.tap(tap)), np.asarray(one.tap(tap)))
        assert many.to_frame(features=True).equals(one.to_frame(features=True))
        ours, theirs = many.info(), one.info()
        differ = {name for name in theirs if ours[name] != theirs[name]}
        assert differ == {"cache", "bytes", "parts"}
        assert many.verify().ok
        assert str(folder) in many._repr_html_()


def test_features_are_read_across_parts(folder: Path) -> None:
    with open_cache(folder) as found:
        whole, X = np.stack([row.vectors[0] for row in make_rows(N)]), found.X
        rng = np.random.default_rng(0)
        some, mask = rng.integers(-N, N, 60), rng.random(N) < 0.1
        for key in (499, 500, -1, slice(490, 1010), slice(None, None, -7), some, mask, ...):
            np.testing.assert_array_equal(X[key], whole[key])
        np.testing.assert_array_equal(np.concatenate(list(X.batches(111))), whole)
        assert X[np.array([], int)].shape == (0, 7)
        for odd in (N, -N - 1, [N], [0.5], [[0, 1]], ([0, 1], [0, 1]), mask[:5], None):
            with pytest.raises(IndexError):
                X[odd]


MASK = np.arange(N) % 7 == 0
KEYS: tuple[Any, ...] = (
    *(0, -1, 499, 500, -N, N, -N - 1, np.int64(700), np.array(700), True, ..., ()),
    *(slice(5, 2), slice(490, 1010), slice(500, 1000), slice(None, None, 2), slice(3, None, 600)),
    *(slice(-3, None), slice(0, 9 * N), slice(None, None, -1), slice(2, 9, 0), slice(N, N)),
    *(MASK, MASK & ~MASK, MASK[:5], MASK[: PART + 1], np.bool_(True)),
    *([1, 499, 500, 1100], [3, -1], [-1], [2, 1], [1, 1], [], range(498, 503)),
    *(np.array([], int), np.array([]), np.array([7, 600], np.uint16), [1.5], 1.5, None, "x"),
    *((slice(1, 800), 0), (..., 0), (600, ...), (slice(400, 800), [0, 1]), ([0, 700], slice(1, 3))),
    *((MASK, 1), (700, 1), (700, slice(1, None)), ([0, 2], [0, 1]), (1, 2, 3), (..., ...)),
    *(np.array([[1, 2], [3, 4]]), np.arange(N * 7).reshape(N, 7) % 5 == 0, (600, "x")),
)


def answer(dataset: Any, key: Any) -> Any:
    try:
        found = dataset[key]
    except (IndexError, TypeError, ValueError) as error:
        return type(error)
    return type(found), np.shape(found), found.dtype, found.tobytes()


def test_rows_of_a_folder_are_chosen_as_in_one_file(file: Path, folder: Path) -> None:
    with h5py.File(file) as one, Folder(folder) as many:
        for name in ("features", "taps/mid", "ids", "stamps"):
            for key in KEYS:
                assert answer(many[name], key) == answer(one[name], key), (name, key)


def test_a_list_with_a_row_that_is_not_there(folder: Path) -> None:
    """Where h5py passes on what HDF5 says, numpy's error is the better one."""
    with Folder(folder) as many, pytest.raises(IndexError, match=f"row {N} of {N}"):
        many["features"][[0, N]]


def test_a_dataset_of_a_folder_becomes_an_array(file: Path, folder: Path) -> None:
    with h5py.File(file) as one, Folder(folder) as many:
        for name in ("features", "ids"):
            whole, found = one[name][...], many[name]
            np.testing.assert_array_equal(np.asarray(found), whole)
            np.testing.assert_array_equal(list(found), whole)
            assert (len(found), found.shape, found.dtype) == (N, whole.shape, whole.dtype)


def test_each_part_is_a_cache_of_its_own(folder: Path) -> None:
    names = []
    for path in sorted(folder.glob("part-*.h5")):
        with open_cache(path) as part:
            assert part.classes == ["cat", "ü dog"]
            assert part.verify().ok
            names += list(part.ids)
    assert names == [f"ü{k}" for k in range(N)]


def test_the_index_can_be_read_without_featx(folder: Path) -> None:
    with h5py.File(folder / INDEX) as index:
        names = index["parts"].asstr()[:]
        assert index.attrs["encoding-type"] == "featx-cache-index"
        assert index["part_rows"][:].tolist() == [[0, 500], [500, 1000], [1000, 1200]]
        for name, size, digest in zip(
            names, index["part_bytes"], index["part_digest"].asstr(), strict=True
        ):
            assert (folder / name).stat().st_size == size
            assert file_digest(folder / name) == digest
        keys, rows = index[ID_INDEX][:].T
        assert (keys == hash_ids(f"ü{row}".encode() for row in rows)).all()
        assert (np.diff(keys.astype(object)) >= 0).all()


@pytest.mark.parametrize("form", ["file", "folder", "old file"])
def test_rows_are_found_by_id(file: Path, folder: Path, form: str) -> None:
    place = folder if form == "folder" else file
    if form == "old file":  # written before there was an index
        edit(file, lambda opened: opened.__delitem__(ID_INDEX))
        with file.open("r+b") as opened:
            seal(opened)
    with open_cache(place) as cache:
        assert [cache.row(f"ü{k}") for k in (0, 499, 500, 1199)] == [0, 499, 500, 1199]
        wanted = np.random.default_rng(0).permutation(N)
        assert cache.rows([f"ü{k}" for k in wanted]).tolist() == wanted.tolist()
        assert cache.rows(["ü7", "ü7"]).tolist() == [7, 7]
        assert cache.rows([]).shape == (0,)
        with pytest.raises(CacheError, match="no row with the id 'dog' and 1 others"):
            cache.rows(["dog", "ü3", "cat"])
        assert cache.verify().ok


def test_a_lookup_reads_little_of_the_index(tmp_path: Path) -> None:
    n = 100_000
    with h5py.File(tmp_path / "ids.h5", "w") as file:
        create_column(file, "ids", [f"ü{k}" for k in range(n)])
        write_id_index(file, n, [file["ids"]])
        table, read = file[ID_INDEX], []

        class Watched:
            shape = table.shape

            def __getitem__(self, key: Any) -> Any:
                found = table[key]
                read.append(np.size(found))
                return found

        assert find_rows(Watched(), file["ids"], ["ü31415"]).tolist() == [31415]
        assert sum(read) < 2 * n / 10


def test_verify_finds_an_index_that_lies(file: Path, folder: Path) -> None:
    for place, path in ((file, file), (folder, folder / INDEX)):
        with h5py.File(path) as opened:
            table = opened[ID_INDEX][:]
        table[[10, 20], 1] = table[[20, 10], 1]
        edit(path, set_value(ID_INDEX, ..., table))
        (problem,) = open_cache(place).verify().problems
        assert "id_index is wrong" in problem
        lost = int(table[10, 1])
        with open_cache(place) as cache, pytest.raises(CacheError, match="no row"):
            cache.row(f"ü{lost}")


def test_verify_finds_an_id_that_two_rows_have(tmp_path: Path) -> None:
    rows = make_rows(4)
    twice = [*rows[:3], type(rows[0])(rows[1].item, rows[3].content, (1, 1), rows[3].vectors)]
    problems = open_cache(make_cache(tmp_path / "c.h5", twice)).verify().problems
    assert problems == ("rows 1 and 3 have the same id ü1",)


@pytest.mark.parametrize("name", ["ids", "labels", "classes", "stamps", "row_digest"])
def test_split_refuses_a_damaged_cache(file: Path, tmp_path: Path, name: str) -> None:
    flip(file, name)
    with pytest.raises(CacheFormatError, match=rf"{file.name} is damaged in /{name}"):
        split(file, tmp_path / "none")


def test_verify_says_which_part_and_which_row(folder: Path) -> None:
    part = sorted(folder.glob("part-*.h5"))[1]
    with h5py.File(part) as opened:
        offset = opened["features"].id.get_chunk_info(0).byte_offset
    data = bytearray(part.read_bytes())
    data[offset + 3 * 28] ^= 1
    part.write_bytes(data)
    result = open_cache(folder).verify()
    assert result.rows == N
    assert result.problems[0].startswith(f"part {part.name}: row ")
    gone = sorted(folder.glob("part-*.h5"))[2]
    gone.unlink()
    with pytest.raises(CacheFormatError, match=f"part {gone.name} is missing"):
        open_cache(folder)
    with Folder(folder) as opened_folder:
        assert len(opened_folder.parts) == 3
    assert any("is missing" in problem for problem in verify_file(folder).problems)


def plant_parent(folder: Path) -> None:
    outside = folder.parent / "outside.h5"
    outside.write_bytes(first_part(folder).read_bytes())
    edit(folder / INDEX, set_value("parts", 0, b"../outside.h5"))


def plant_absolute(folder: Path) -> None:
    edit(folder / INDEX, set_value("parts", 0, b"/etc/passwd.h5"))


def plant_link(folder: Path) -> None:
    part = first_part(folder)
    part.rename(folder.parent / "elsewhere.h5")
    part.symlink_to(folder.parent / "elsewhere.h5")


def plant_index_link(folder: Path) -> None:
    (folder / INDEX).rename(folder.parent / INDEX)
    (folder / INDEX).symlink_to(folder.parent / INDEX)


def plant_fingerprint(folder: Path) -> None:
    other = replace(SPEC, precision="bf16")

    def change(file: h5py.File) -> None:
        del file["spec"]
        file.create_dataset("spec", data=other.to_json(), dtype=h5py.string_dtype())
        file.attrs["fingerprint"] = other.fingerprint

    part = first_part(folder)
    edit(part, change)
    edit(folder / INDEX, set_value("part_bytes", 0, part.stat().st_size))


def plant_overlap(folder: Path) -> None:
    edit(folder / INDEX, set_value("part_rows", 1, [400, 1000]))


def plant_gap(folder: Path) -> None:
    edit(folder / INDEX, set_value("part_rows", 1, [520, 1000]))


def plant_rows(folder: Path) -> None:
    edit(folder / INDEX, set_value("part_rows", ..., [[0, 400], [400, 1000], [1000, 1200]]))


def plant_cut(folder: Path) -> None:
    part = first_part(folder)
    part.write_bytes(part.read_bytes()[:-100])


def plant_twice(folder: Path) -> None:
    edit(folder / INDEX, set_value("parts", 1, first_part(folder).name.encode()))


def plant_no_index(folder: Path) -> None:
    (folder / INDEX).unlink()


def plant_half_an_index(folder: Path) -> None:
    (folder / INDEX).write_bytes((folder / INDEX).read_bytes()[:3000])


def plant_a_cache_as_index(folder: Path) -> None:
    (folder / INDEX).write_bytes(first_part(folder).read_bytes())


def plant_classes(folder: Path) -> None:
    edit(folder / INDEX, set_value("classes", 0, b"cow"))


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (plant_parent, "not a plain name"),
        (plant_absolute, "not a plain name"),
        (plant_link, "is a link"),
        (plant_index_link, "is a link"),
        (plant_fingerprint, "another fingerprint"),
        (plant_overlap, "rows 400 to 500 overlap"),
        (plant_gap, "rows 500 to 520 are missing"),
        (plant_rows, "holds 500 rows, and the index says 400"),
        (plant_cut, "cut short"),
        (plant_twice, "twice"),
        (plant_no_index, "is a folder without index.h5"),
        (plant_half_an_index, r"index\.h5 is not a featx cache, or is cut off"),
        (plant_a_cache_as_index, "not the index"),
        (plant_classes, "other classes"),
    ],
)
def test_hostile_folders_are_refused_in_one_line(
    folder: Path, plant: Callable[[Path], None], message: str
) -> None:
    plant(folder)
    with pytest.raises(CacheError, match=message) as caught:
        open_cache(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_part_of_other_features_is_found_by_verify(folder: Path, tmp_path: Path) -> None:
    """Same rows, names and size, another file: only its digest tells."""
    other = make_cache(tmp_path / "o.h5", make_rows(N), **{**described(N), "split": ["train"] * N})
    split(other, tmp_path / "g", rows=PART)
    part, foreign = first_part(folder), first_part(tmp_path / "g")
    part.write_bytes(foreign.read_bytes())
    edit(folder / INDEX, set_value("part_bytes", 0, part.stat().st_size))
    (problem,) = open_cache(folder).verify().problems
    assert "its bytes are not those" in problem


def publish(folder: Path, n: int, **more: Any) -> None:
    """What the end of a run does, over a folder that is there."""
    shards = ShardWriter(parts_folder(folder), lambda: SPEC)
    shards.add(make_rows(n)[N:])
    shards.flush()
    known = KnownRows(SPEC, folder, parts_folder(folder) / SPEC.fingerprint)
    ids = [row.item for row in make_rows(n)]
    told = Description(ids, ids, **more)
    places = known.places(keys_of(row.content for row in make_rows(n)))
    write_cache(folder, SPEC, told, places, known.files, {"command": "again"})
    assert describes(told, folder)


def test_a_run_publishes_into_a_folder_that_is_there(folder: Path) -> None:
    before = {path.name for path in folder.iterdir()}
    publish(folder, N + 50)
    with open_cache(folder) as cache:
        assert len(cache) == N + 50
        assert cache.provenance == {"command": "again"}
        assert cache.verify().ok
    assert {path.name for path in folder.iterdir()} & before == {INDEX}


def test_a_reader_that_comes_too_late_is_told(folder: Path) -> None:
    with open_cache(folder) as before:
        kept = before.X[:10]  # its part is open, and stays
        publish(folder, N)
        np.testing.assert_array_equal(before.X[:10], kept)
        with pytest.raises(CacheFormatError, match="replaced just now, open it again"):
            before.X[-1]


def test_a_folder_in_place_is_known_row_by_row(folder: Path) -> None:
    known = KnownRows(SPEC, folder, parts_folder(folder) / SPEC.fingerprint)
    assert len(known) == N
    row = make_rows(N)[777]
    assert known.untouched(["ü777"], np.array([row.stamp])) == keys_of([row.content])


def test_a_name_that_ends_in_a_slash_is_a_folder(tmp_path: Path) -> None:
    place = target_path(f"{tmp_path}/new/")
    assert place.is_dir()
    assert not holds_cache(place)
    assert target_path(f"{tmp_path}/c.h5") == tmp_path / "c.h5"
    target_path(f"{tmp_path}/dry/", create=False)
    assert not (tmp_path / "dry").exists()
    with pytest.raises(CacheError, match="cannot create"):
        target_path(f"{tmp_path}/no/such/")


def test_every_command_takes_a_folder(
    photos: Path, tmp_path: Path, tiny: dict[str, Any], shell: Shell
) -> None:
    featx.extract(photos, tmp_path / "c.h5", **tiny)
    split(tmp_path / "c.h5", tmp_path / "f", rows=5)
    again = featx.extract(photos, tmp_path / "f", **tiny)
    assert (again.embedded, again.reused) == (0, 12)
    next(photos.rglob("*.png")).unlink()
    again = featx.extract(photos, tmp_path / "f", **tiny)
    assert (again.embedded, again.reused, again.removed) == (0, 11, 1)
    options = {"split": 0.5, "folds": 2, "fit_on": "train"}
    fitted = featx.fit(tmp_path / "f", "logreg", tmp_path / "m.featx", **options)
    assert fitted.test["accuracy"]["value"] >= 0
    assert featx.evaluate(tmp_path / "m.featx", tmp_path / "f").n_test == fitted.n_test
    for command in ("info", "verify"):
        done = shell(command, tmp_path / "f")
        assert done.returncode == 0, done.stderr
        assert "11" in done.stdout
    (first_part(tmp_path / "f")).unlink()
    assert shell("verify", tmp_path / "f").returncode == 1
    done = shell("info", tmp_path / "f")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert not os.path.exists(tmp_path / "f.lock")  # noqa: PTH110
