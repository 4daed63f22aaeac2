"""Several caches become one: columns and classes are united, and nothing is left out unsaid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Shell
from test_cache import SPEC, make_rows
from test_merge import contents

from featx.cache import merge, merging, open_cache, split
from featx.cache.ids import keys_of
from featx.cache.publish import Description, write_cache
from featx.cache.reuse import KnownRows
from featx.cache.rows import CacheRows, ManyRows
from featx.cache.staging import ShardWriter, parts_folder, remove_parts
from featx.errors import CacheError, CacheFormatError, CacheMismatchError
from featx.slices import SliceRecord


def make(
    path: Path, rows: range, shard: SliceRecord | None = None, spec: Any = SPEC, **about: Any
) -> Path:
    """A cache of some rows of one long list, as a shard says of itself."""
    made = make_rows(len(rows), rows.start)
    writer = ShardWriter(parts_folder(path), lambda: spec)
    writer.add(made)
    writer.flush()
    known = KnownRows(spec, None, parts_folder(path) / spec.fingerprint)
    ids = [row.item for row in made]
    places = known.places(keys_of(row.content for row in made))
    told = {"host": path.stem, "source": "photos"}
    told |= {} if shard is None else {"shard": shard.to_dict()}  # type: ignore[dict-item]
    write_cache(path, spec, Description(ids, ids, **about), places, known.files, told, [7, 3])
    remove_parts(path)
    return path


def shard(number: int, of: int = 3, names: int = 30, listing: str = "ab") -> SliceRecord:
    return SliceRecord((number,), of, names, listing)


def three(folder: Path, **last: Any) -> list[Path]:
    """Shards of 5, 7 and 3 rows."""
    return [
        make(folder / "1.h5", range(5), shard(1), failed={"bad-1": "broken"}),
        make(folder / "2.h5", range(5, 12), shard(2)),
        make(folder / "3.h5", range(12, 15), shard(3), failed={"bad-3": "cut"}, **last),
    ]


def test_rows_come_in_the_order_of_the_shards(tmp_path: Path) -> None:
    paths = three(tmp_path)
    for k, order in enumerate(([0, 1, 2], [2, 0, 1])):
        done = merge([paths[i] for i in order], tmp_path / f"m{k}.h5")
        assert (done.rows, done.failed, done.parts, done.missing) == (15, 2, 0, [])
        with open_cache(tmp_path / f"m{k}.h5") as found:
            whole = [*make_rows(5), *make_rows(7, 5), *make_rows(3, 12)]
            assert list(found.ids) == [row.item for row in whole]
            np.testing.assert_array_equal(
                np.asarray(found.tap("mid")), np.stack([row.vectors[1] for row in whole])
            )
            assert found.failed == {"bad-1": "broken", "bad-3": "cut"}
            assert found.row("ü13") == 13
            runs = found.provenance["merged"]
            assert [(run["rows"], run["host"]) for run in runs] == [(5, "1"), (7, "2"), (3, "3")]
            assert found.provenance["source"] == "photos"
            assert found.verify().ok


def test_a_folder_of_parts_is_written_and_goes_on(tmp_path: Path) -> None:
    paths = three(tmp_path)
    merge(paths, tmp_path / "m.h5")
    done = merge(paths, f"{tmp_path / 'f'}/")
    assert (done.parts, done.rows) == (1, 15)
    merge(tmp_path / "f", tmp_path / "back.h5")
    ours, theirs = contents(tmp_path / "back.h5"), contents(tmp_path / "m.h5")
    assert {n for n in theirs if ours[n] != theirs[n]} <= {"provenance"}
    (part,) = (tmp_path / "f").glob("part-*.h5")
    (tmp_path / "f" / "index.h5").unlink()
    inode = part.stat().st_ino
    merge(paths[::-1], tmp_path / "f")
    assert [p.stat().st_ino for p in (tmp_path / "f").glob("part-*.h5")] == [inode]
    with pytest.raises(CacheError, match=r"exists.*--force"):
        merge(paths, tmp_path / "f")
    assert open_cache(tmp_path / "f").verify().ok


def test_a_part_whose_codes_change_is_another_part(tmp_path: Path) -> None:
    codes = np.array([0, 1] * 2, np.int32)
    one = make(tmp_path / "1.h5", range(4), labels=codes, classes=["a", "b"])
    tags = []
    for k, name in enumerate(("b", "A", "b")):
        two = make(tmp_path / f"{k}-2.h5", range(4, 6), labels=codes[::2], classes=[name])
        with ManyRows([one, two], partial=False) as rows:
            tags.append(rows.tag(slice(0, 4)))  # of the first cache alone
    assert tags[0] == tags[2] != tags[1]


def labelled(path: Path, rows: range, labels: Sequence[Any] | None, classes: Any) -> Path:
    if labels is None:
        return make(path, rows)
    kind = np.float64 if classes is None else np.int8 if np.ndim(labels) == 2 else np.int32
    return make(path, rows, labels=np.array(labels, kind), classes=classes)


@pytest.mark.parametrize(
    ("first", "second", "classes", "labels"),
    [
        (
            ([0, 1], ["cat", "owl"]),
            ([0, 1], ["ape", "cat"]),
            ["ape", "cat", "owl"],
            "cat owl ape cat",
        ),
        (([0, 1], ["9", "x"]), ([0, -1], ["10"]), ["9", "10", "x"], "9 x 10 -"),
        (([1, 0], ["b", "a"]), ([0, 1], ["b", "a"]), ["b", "a"], "a b b a"),
        (([0, 1], ["cat", "owl"]), (None, None), ["cat", "owl"], "cat owl - -"),
        (([0, 7], ["cat"]), ([0, -1], ["cat"]), ["cat"], "cat - cat -"),
        (
            ([[1, 1], [-1, -1]], ["cat", "owl"]),
            ([0, -1], [" owl "]),
            ["cat", "owl"],
            "cat|owl - owl -",
        ),
        (
            ([0, 0], ["owl"]),
            ([[0, 1], [0, 0]], ["ape", "cat"]),
            ["ape", "cat", "owl"],
            "owl owl cat |",
        ),
        (([[1], [0]], ["a"]), (None, None), ["a"], "a | - -"),
        (([0.5, np.nan], None), ([1, -1], ["2", "10"]), None, [0.5, np.nan, 10, np.nan]),
        (([0.5, 1.5], None), (None, None), None, [0.5, 1.5, np.nan, np.nan]),
        (([0.5, 1.5], None), ([-1, -1], []), None, [0.5, 1.5, np.nan, np.nan]),
    ],
)
def test_labels_keep_their_meaning(
    tmp_path: Path, first: Any, second: Any, classes: Any, labels: Any
) -> None:
    paths = [labelled(tmp_path / "1.h5", range(2), *first)]
    paths.append(labelled(tmp_path / "2.h5", range(2, 4), *second))
    merge(paths, tmp_path / "m.h5")
    with open_cache(tmp_path / "m.h5") as found:
        assert found.classes == classes
        if classes is None:
            np.testing.assert_array_equal(found.labels, labels)
        else:
            assert found.labels == [None if w == "-" else w for w in labels.split()]


def test_numbers_and_words_are_no_labels_of_one_cache(tmp_path: Path) -> None:
    one = labelled(tmp_path / "1.h5", range(2), [0.5, 1], None)
    for more in (([0, 0], ["cat"]), ([[1], [1]], ["1"])):
        two = labelled(tmp_path / "2.h5", range(2, 4), *more)
        with pytest.raises(CacheError, match=r"labels of .*1\.h5 are numbers, .*2\.h5 classes"):
            merge([one, two], tmp_path / "m.h5")


TEXT = np.array(["x", "längst"], object)


@pytest.mark.parametrize(
    ("first", "second", "kind", "values"),
    [
        (np.array([1, 2]), np.array([3, 4]), "i8", [1, 2, 3, 4]),
        (np.array([1, 2]), np.array([0.5, 1]), "f8", [1, 2, 0.5, 1]),
        (np.array([1, 2], np.int32), np.array([3, 2**40]), "i8", [1, 2, 3, 2**40]),
        (np.array([1, 2]), None, "f8", [1, 2, np.nan, np.nan]),
        (np.array([1, 2], np.float32), None, "f4", [1, 2, np.nan, np.nan]),
        (np.array([True, False]), np.array([False, True]), "b1", [True, False, False, True]),
        (np.array([True, False]), None, "O", ["True", "False", "", ""]),
        (np.array([True, False]), np.array([1, 2]), "O", ["True", "False", "1", "2"]),
        (np.array([4.5, np.nan]), TEXT, "O", ["4.5", "", "x", "längst"]),
        (TEXT, np.array([-(2**62), 7]), "O", ["x", "längst", str(-(2**62)), "7"]),
        (TEXT, None, "O", ["x", "längst", "", ""]),
    ],
)
def test_columns_get_one_type(
    tmp_path: Path, first: Any, second: Any, kind: str, values: list[Any]
) -> None:
    about = [{} if c is None else {"columns": {"c": c}} for c in (first, second)]
    for order in ((0, 1), (1, 0)):
        paths = [make(tmp_path / f"{k}.h5", range(2 * k, 2 * k + 2), **about[k]) for k in order]
        merge(paths, tmp_path / "m.h5", force=True)
        wanted = values if order == (0, 1) else values[2:] + values[:2]
        with open_cache(tmp_path / "m.h5") as found:
            assert found.columns["c"].dtype == np.dtype(kind)
            np.testing.assert_array_equal(found.columns["c"], np.array(wanted, kind))


def test_a_split_that_one_lacks_is_empty(tmp_path: Path) -> None:
    one = make(tmp_path / "1.h5", range(2))
    two = make(tmp_path / "2.h5", range(2, 4), split=["train", "validation"])
    merge([one, two], tmp_path / "m.h5")
    assert list(open_cache(tmp_path / "m.h5").split or ()) == ["", "", "train", "validation"]


def test_a_missing_shard_is_named(tmp_path: Path, shell: Shell) -> None:
    paths = three(tmp_path)
    with pytest.raises(CacheError, match=r"^shard 2 of 3 is missing \(given: 1, 3\); extract it"):
        merge([paths[0], paths[2]], tmp_path / "m.h5")
    with pytest.raises(CacheError, match=r"^shards 1, 3 of 3 are missing \(given: 2\)"):
        merge(paths[1], tmp_path / "m.h5")
    done = shell("merge", paths[0], paths[2], tmp_path / "m.h5")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert not (tmp_path / "m.h5").exists()
    done = shell("merge", paths[0], paths[2], tmp_path / "m.h5", "--partial", "--json")
    assert json.loads(done.stdout)["missing"] == [2]
    assert json.loads(done.stdout)["rows"] == 8
    with open_cache(tmp_path / "m.h5") as found:
        assert SliceRecord.from_dict(found.provenance["shard"]) == SliceRecord((1, 3), 3, 30, "ab")
    with pytest.raises(CacheError, match=r"shard 2 of 3 is missing \(given: 1, 3\)"):
        merge([tmp_path / "m.h5", make(tmp_path / "x.h5", range(50, 51))], tmp_path / "w.h5")
    done = shell("merge", tmp_path / "m.h5", paths[1], tmp_path / "w.h5")
    assert done.stdout.strip() == f"{tmp_path / 'w.h5'}: 15 rows of 2 caches in one file"
    assert "shard" not in open_cache(tmp_path / "w.h5").provenance


def test_shards_that_do_not_belong_together(tmp_path: Path) -> None:
    one, two, three_of = three(tmp_path)
    more = {
        r"shard 1/3 is in .*1\.h5 and in .*1\.h5": [one, one, two, three_of],
        r"shard 2/3 is in .*1\.h5 and in .*x\.h5|shard 2/3 is in .*2\.h5 and in .*x\.h5": [
            one,
            two,
            make(tmp_path / "x.h5", range(40, 41), shard(2)),
            three_of,
        ],
        r"1\.h5 holds shard 1/3 and .*y\.h5 shard 2/4; shards of one count": [
            one,
            make(tmp_path / "y.h5", range(5, 12), shard(2, of=4)),
            three_of,
        ],
        r"1\.h5 was dealt from a source of 30 names, and .*z\.h5 from another listing, of 31": [
            one,
            make(tmp_path / "z.h5", range(5, 12), shard(2, names=31, listing="cd")),
            three_of,
        ],
    }
    for words, paths in more.items():
        with pytest.raises(CacheError, match=words):
            merge(paths, tmp_path / "m.h5")
        assert not (tmp_path / "m.h5").exists()
    merge([one, tmp_path / "z.h5", three_of], tmp_path / "m.h5", partial=True)
    with open_cache(tmp_path / "m.h5") as found:
        held = SliceRecord.from_dict(found.provenance["shard"])
    assert held is not None
    assert (held.held, held.missing) == ((1, 2, 3), [])


def test_caches_of_other_sources_are_added(tmp_path: Path) -> None:
    paths = [make(tmp_path / "0.h5", range(20, 22)), *three(tmp_path)]
    merge(paths, tmp_path / "m.h5")
    with open_cache(tmp_path / "m.h5") as found:
        assert list(found.ids) == [f"ü{k}" for k in [*range(15), 20, 21]]
    with pytest.raises(CacheError, match=r"the id 'ü20' stands in .*0\.h5 and in .*t\.h5"):
        merge([*paths, make(tmp_path / "t.h5", range(19, 23))], tmp_path / "n.h5")


def test_other_features_are_refused(tmp_path: Path) -> None:
    one, two, _ = three(tmp_path)
    other = make(tmp_path / "o.h5", range(12, 15), shard(3), replace(SPEC, precision="bf16"))
    with pytest.raises(CacheMismatchError, match=r"o\.h5 was computed otherwise than .*precision"):
        merge([one, two, other], tmp_path / "m.h5")
    nothing = make_nothing(tmp_path / "n.h5", replace(SPEC, precision="bf16"))
    merge([one, two, nothing], tmp_path / "m.h5")
    with open_cache(tmp_path / "m.h5") as found:
        assert (len(found), found.spec.precision) == (12, "fp32")


def make_nothing(path: Path, spec: Any) -> Path:
    told = {"shard": shard(3).to_dict()}
    write_cache(path, spec, Description([], []), np.empty((0, 2), np.int32), [], told, [7, 3])
    return path


def test_a_damaged_shard_is_not_passed_on(tmp_path: Path) -> None:
    paths = three(tmp_path)
    with h5py.File(paths[1], "r+") as file:
        file["features"][4, 3] += 1
    with pytest.raises(CacheFormatError, match=r"2\.h5 is damaged in row 4; .featx verify"):
        merge(paths, tmp_path / "m.h5")
    paths[1].write_bytes(b"no cache")
    with pytest.raises(CacheFormatError, match=r"2\.h5 is not a featx cache"):
        merge(paths, tmp_path / "m.h5")
    paths[1].unlink()
    with pytest.raises(CacheError, match=r"no such cache: .*2\.h5"):
        merge(paths, tmp_path / "m.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.h5", "3.h5"]


def test_a_shard_written_anew_meanwhile_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, original = three(tmp_path), merging.write_file

    def late(*arguments: Any) -> None:
        paths[1].unlink()
        make(paths[1], range(5, 12), shard(2))
        original(*arguments)

    monkeypatch.setattr(merging, "write_file", late)
    with pytest.raises(CacheError, match=r"2\.h5 was written anew meanwhile; merge again"):
        merge(paths, tmp_path / "m.h5")
    assert not (tmp_path / "m.h5").exists()


def test_two_caches_at_most_are_open_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [make(tmp_path / f"{k}.h5", range(3 * k, 3 * k + 3), shard(k + 1, 9)) for k in range(9)]
    most, original = [0], CacheRows.read

    def read(*arguments: Any) -> Any:
        files = [h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)]
        most[0] = max(most[0], *files)
        return original(*arguments)

    before = h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)
    monkeypatch.setattr(CacheRows, "read", read)
    merge(paths, tmp_path / "m.h5")
    assert 0 < most[0] - before <= 2  # one that is read, and the one that is written


def test_a_note_of_a_shard_that_cannot_be_read(tmp_path: Path, shell: Shell) -> None:
    paths = three(tmp_path)
    for text, words in (("no JSON", "provenance is no JSON object"), ("[1]", "is no JSON object")):
        with h5py.File(paths[1], "r+") as file:
            del file["provenance"]
            file.create_dataset("provenance", data=text, dtype=h5py.string_dtype())
        with pytest.raises(CacheFormatError, match=words):
            merge(paths, tmp_path / "m.h5")
        done = shell("info", paths[1])
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    for note in ({"held": [1], "of": 10**12}, {"held": [0], "of": 3}, {"held": 3}, [1], "1/3"):
        told = note | {"names": 3, "listing": ""} if isinstance(note, dict) else note
        assert SliceRecord.from_dict(told) is None


def test_ids_that_share_a_hash_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "featx.cache.rows.hash_column", lambda ids: np.zeros(ids.shape[0], np.uint64)
    )
    assert merge(three(tmp_path), tmp_path / "m.h5").rows == 15
    with pytest.raises(CacheError, match="the id 'ü4' stands in"):
        merge([tmp_path / "m.h5", make(tmp_path / "x.h5", range(4, 5))], tmp_path / "n.h5")


def test_targets_that_cannot_be(tmp_path: Path) -> None:
    paths = three(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    for target, words in (
        (paths[1], "overlap"),
        (tmp_path / "full", "holds other files"),
        (tmp_path / "no" / "m.h5", "does not exist"),
    ):
        with pytest.raises(CacheError, match=words):
            merge(paths, target, force=True)
    with pytest.raises(CacheError, match="no cache to merge"):
        merge([], tmp_path / "m.h5")
    merge(paths, tmp_path / "m.h5")
    with pytest.raises(CacheError, match=r"exists.*--force"):
        merge(paths, tmp_path / "m.h5")
    assert (tmp_path / "full" / "letter.txt").read_text() == "mine"


def test_a_shard_in_parts_stays_that_shard(tmp_path: Path) -> None:
    one, two, last = three(tmp_path)
    split(two, tmp_path / "2", rows=3)
    merge(tmp_path / "2", tmp_path / "back.h5")
    assert contents(tmp_path / "back.h5") == contents(two)
    merge([last, tmp_path / "2", one], tmp_path / "m.h5")
    assert len(open_cache(tmp_path / "m.h5")) == 15
