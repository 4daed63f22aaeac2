"""The cache file: written whole or not at all, read by rows, trusted in nothing."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest

import featx
from featx.cache import Cache, ExtractSpec, open_cache, split
from featx.cache.format import chunk_rows
from featx.cache.h5file import durable_h5
from featx.cache.ids import keys_of
from featx.cache.lock import WriterLock
from featx.cache.publish import Description, describes, require_target, write_cache
from featx.cache.reuse import KnownRows, trusted_stamp
from featx.cache.staging import Row, ShardWriter, complete_shards, parts_folder
from featx.errors import (
    CacheError,
    CacheFormatError,
    CacheLockedError,
    NoSpaceError,
)
from featx.files import write_bytes
from featx.items import Stamp
from featx.spec import spec_difference
from featx.targets import require_writable

SPEC = ExtractSpec(
    architecture="net",
    weights_digest="ab" * 32,
    taps=(
        {"name": "pool", "layer": "pool", "side": "output", "pool": "avg"},
        {"name": "mid", "layer": "mid", "side": "output", "pool": "max"},
    ),
    preprocess={"input_size": [8, 8], "views": ["none"]},
    decode={"mode": "exact"},
    precision="fp32",
)


def make_rows(n: int, first: int = 0) -> list[Row]:
    rng = np.random.default_rng(first)
    return [
        Row(
            item=f"ü{k}",
            content=f"{k:064x}".encode(),
            stamp=(k + 1, 1_000_000_000 + k),
            vectors=(rng.random(7, np.float32), rng.random(3, np.float32)),
        )
        for k in range(first, first + n)
    ]


def make_cache(path: Path, rows: list[Row], **description: object) -> Path:
    writer = ShardWriter(parts_folder(path), lambda: SPEC)
    writer.add(rows)
    writer.flush()
    known = KnownRows(SPEC, None, parts_folder(path) / SPEC.fingerprint)
    ids = [row.item for row in rows]
    told = Description(ids, ids, **description)  # type: ignore[arg-type]
    places = known.places(keys_of(row.content for row in rows))
    write_cache(path, SPEC, told, places, known.files, {"command": "test"})
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    labels = np.array([0, 1, -1] * 400, np.int32)
    return make_cache(
        tmp_path / "c.h5",
        make_rows(1200),
        labels=labels,
        classes=["cat", "ü dog"],
        split=["train", "test", ""] * 400,
        columns={"age": np.arange(1200.0), "kind": np.array(["a", "ß"] * 600, object)},
        failed={"bad.png": "cannot be decoded"},
    )


def test_three_lines_of_h5py_read_it(cache: Path) -> None:
    with h5py.File(cache) as file:
        features, labels, ids = file["features"][:], file["labels"][:], file["ids"].asstr()[:]
    assert features.shape == (1200, 7)
    assert features.dtype == np.float32
    assert labels[:3].tolist() == [0, 1, -1]
    assert ids[5] == "ü5"


def test_open_cache_gives_what_was_written(cache: Path) -> None:
    rows = make_rows(1200)
    with open_cache(cache) as found:
        np.testing.assert_array_equal(np.asarray(found.X), [row.vectors[0] for row in rows])
        np.testing.assert_array_equal(found.tap("mid")[:], [row.vectors[1] for row in rows])
        assert found.taps == ["pool", "mid"]
        assert found.classes == ["cat", "ü dog"]
        assert found.labels is not None
        assert list(found.labels[:3]) == ["cat", "ü dog", None]
        assert found.failed == {"bad.png": "cannot be decoded"}
        assert list(found.columns["kind"][:2]) == ["a", "ß"]
        assert found.provenance["command"] == "test"
        assert found.verify().ok
        frame = found.to_frame(features=True)
        assert frame.shape == (1200, 6 + 7)
        html = found._repr_html_()
        assert "1200" in html
        assert "ü dog" in html
        with pytest.raises(CacheError, match="no tap 'mit'; did you mean mid"):
            found.tap("mit")


def test_features_are_read_by_rows(cache: Path) -> None:
    with open_cache(cache) as found:
        whole, X = np.asarray(found.X), found.X
        rng = np.random.default_rng(0)
        some = rng.integers(-1200, 1200, 50)
        mask = rng.random(1200) < 0.1
        for key in (3, -1, slice(5, 60), slice(None, None, -7), some, mask, (slice(2, 9), 4), ...):
            np.testing.assert_array_equal(X[key], whole[key])
        np.testing.assert_array_equal(np.concatenate(list(X.batches(111))), whole)
        assert X[np.array([], int)].shape == (0, 7)
        with pytest.raises(IndexError, match="row 1200 of 1200"):
            X[1200]
        with pytest.raises(IndexError):
            X[[0, 1200]]


def test_chunks_are_whole_rows_of_about_384_kib() -> None:
    assert chunk_rows(10**6, 1280 * 4) * 1280 * 4 in range(256 << 10, 512 << 10)
    assert chunk_rows(5, 1280 * 4) == 5
    assert chunk_rows(10, 10**7) == 1


def test_no_shard_is_left_open_long_and_none_is_lost(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, lambda: SPEC)
    writer.add(make_rows(1100))
    assert writer.written == 1100
    writer.add(make_rows(5, 1100))
    writer._since -= 31
    writer.tick()
    assert writer.written == 1105
    known = KnownRows(SPEC, None, tmp_path / SPEC.fingerprint)
    assert len(known) == 1105
    assert all(row.content in known for row in make_rows(1105))
    assert b"f" * 64 not in known


def test_untouched_needs_id_size_and_time(cache: Path) -> None:
    known = KnownRows(SPEC, cache, parts_folder(cache) / SPEC.fingerprint)
    (size, changed), key = make_rows(8)[7].stamp, keys_of([make_rows(8)[7].content])[0]
    stamps = np.array([(size, changed), (8, 2), (size, changed), (8, 0)])
    assert known.untouched(["ü7", "ü7", "ü8", "ü7"], stamps).tolist() == [key, b"", b"", b""]


def test_a_stamp_as_young_as_its_reading_is_not_trusted() -> None:
    now = 10_000_000_000
    old, new = now - 3_000_000_000, now - 1_000_000_000
    assert trusted_stamp(Stamp(5, old), now) == (5, old)
    assert trusted_stamp(Stamp(5, new), now) == (0, 0)
    stamps = [Stamp(5, old, old, 7), Stamp(5, old, old - 1, 7), Stamp(5, old, old, 8)]
    assert len({trusted_stamp(stamp, now) for stamp in stamps}) == 3


def test_describes_sees_every_change(cache: Path) -> None:
    with open_cache(cache) as found:
        told = Description(
            found.ids, found.paths, found.y, found.classes, found.split, found.columns, found.failed
        )
    assert describes(told, cache)
    assert found.y is not None
    for change in (
        {"labels": np.roll(found.y, 1)},
        {"classes": ["cat", "dog"]},
        {"split": None},
        {"columns": {}},
        {"columns": {**found.columns, "more": np.zeros(1200)}},
        {"failed": {}},
        {"paths": ["x"] * 1200},
    ):
        assert not describes(replace(told, **change), cache)  # type: ignore[arg-type]


def flip(file_path: Path, name: str) -> None:
    """Change one bit of what is stored of a dataset."""
    with h5py.File(file_path, "r") as file:
        offset = file[name].id.get_chunk_info(0).byte_offset
    data = bytearray(file_path.read_bytes())
    data[offset + 4] ^= 1
    file_path.write_bytes(data)


@pytest.mark.parametrize(
    "name", ["features", "taps/mid", "ids", "labels", "row_digest", "id_index"]
)
def test_verify_finds_a_flipped_byte(cache: Path, name: str) -> None:
    flip(cache, name)
    with open_cache(cache) as found:
        result = found.verify()
    assert not result.ok
    assert any("damaged" in p or "checksum" in p for p in result.problems)


READS: list[tuple[str, Callable[[Cache], object]]] = [
    ("features", lambda cache: np.asarray(cache.X)),
    ("features", lambda cache: cache.X[3]),
    ("features", lambda cache: cache.X[[5, 2]]),
    ("features", lambda cache: cache.X[:9]),
    ("taps/mid", lambda cache: cache.tap("pool,mid")[:2]),
    ("ids", lambda cache: cache.ids),
    ("id_index", lambda cache: cache.row("ü3")),
    ("labels", lambda cache: cache.y),
    ("labels", lambda cache: cache.info()),
    ("split", lambda cache: cache.split),
    ("split", lambda cache: cache.info()),
    ("content", lambda cache: cache.content_digests),
    ("columns/age", lambda cache: cache.columns),
    ("columns/kind", lambda cache: cache.columns),
]


@pytest.mark.parametrize(("name", "read"), READS)
def test_reading_damaged_bytes_names_the_file_and_what_to_do(
    cache: Path, name: str, read: Callable[[Cache], object]
) -> None:
    flip(cache, name)
    with (
        open_cache(cache) as found,
        pytest.raises(CacheFormatError, match=rf"c\.h5 is damaged in /{name}; `featx verify"),
    ):
        read(found)


def test_damaged_part_of_a_folder_is_named(cache: Path) -> None:
    split(cache, cache.with_name("parts"), rows=500)
    part = min(cache.with_name("parts").glob("part-00001*"))
    flip(part, "features")
    with open_cache(cache.with_name("parts")) as found:
        assert found.X[:500].shape == (500, 7)
        with pytest.raises(CacheFormatError, match=r"part-00001.* is damaged in /features"):
            np.asarray(found.X)


def test_labels_beyond_the_classes_are_refused(cache: Path) -> None:
    with h5py.File(cache, "r+") as file:
        file["labels"][7] = 2
    with open_cache(cache) as found, pytest.raises(CacheFormatError, match="beyond the 2 classes"):
        assert found.labels


def test_verify_names_the_rows_that_changed_places(cache: Path) -> None:
    with h5py.File(cache, "r+") as file:
        file["features"][[3, 9]] = file["features"][[3, 9]][::-1]
    with open_cache(cache) as found:
        problems = found.verify().problems
    assert problems == ("row 3 (ü3) is damaged", "row 9 (ü9) is damaged")


def test_every_cut_off_file_is_refused_or_found(cache: Path) -> None:
    data = cache.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9, 0.999):
        cache.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(CacheFormatError, match=r"c\.h5"):
            open_cache(cache)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["data"] = [1, 2, 3]
    with pytest.raises(CacheFormatError, match="not a featx cache"):
        open_cache(other)
    with pytest.raises(CacheError, match="no such cache"):
        open_cache(tmp_path / "gone.h5")
    with pytest.raises(CacheError, match="is a folder"):
        open_cache(tmp_path)


def plant_soft_link(file: h5py.File, canary: Path) -> None:
    del file["paths"]
    file["paths"] = h5py.SoftLink("/ids")


def plant_external_link(file: h5py.File, canary: Path) -> None:
    del file["paths"]
    file["paths"] = h5py.ExternalLink(str(canary), "/ids")


def plant_external_storage(file: h5py.File, canary: Path) -> None:
    del file["features"]
    file.create_dataset("features", (1200, 7), "f4", external=[(str(canary), 0, 1200 * 28)])


def plant_virtual(file: h5py.File, canary: Path) -> None:
    del file["features"]
    layout = h5py.VirtualLayout((1200, 7), "f4")
    layout[:] = h5py.VirtualSource(str(canary), "features", (1200, 7))
    file.create_virtual_dataset("features", layout)


def plant_unknown_filter(file: h5py.File, canary: Path) -> None:
    del file["features"]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((100, 7))
    properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
    space = h5py.h5s.create_simple((1200, 7))
    h5py.h5d.create(file.id, b"features", h5py.h5t.IEEE_F32LE, space, properties)


def plant_absurd_shape(file: h5py.File, canary: Path) -> None:
    del file["features"]
    file.create_dataset("features", (10**12, 7), "f4", chunks=(1000, 7))


def plant_wrong_rows(file: h5py.File, canary: Path) -> None:
    del file["labels"]
    file["labels"] = np.zeros(7, np.int32)


def plant_foreign_object(file: h5py.File, canary: Path) -> None:
    file.create_group("code")["run"] = np.void(b"import os")


def plant_other_spec(file: h5py.File, canary: Path) -> None:
    del file["spec"]
    file["spec"] = SPEC.to_json().replace("fp32", "bf16")


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (plant_soft_link, "is a link"),
        (plant_external_link, "is a link"),
        (plant_external_storage, "external storage"),
        (plant_virtual, "virtual"),
        (plant_unknown_filter, "filter 32015"),
        (plant_absurd_shape, "claims"),
        (plant_wrong_rows, "values for 1200 rows"),
        (plant_foreign_object, "does not belong"),
        (plant_other_spec, "fingerprint"),
    ],
)
def test_hostile_files_are_refused(
    cache: Path, tmp_path: Path, plant: Callable[[h5py.File, Path], None], message: str
) -> None:
    canary = tmp_path / "canary"
    canary.write_bytes(b"secret" * 10_000)
    before = canary.stat()
    os.utime(canary, ns=(1, before.st_mtime_ns))  # an old access time shows any reading
    with h5py.File(cache, "r+") as file:
        plant(file, canary)
    with pytest.raises(CacheFormatError, match=message):
        open_cache(cache)
    assert canary.stat().st_mtime_ns == before.st_mtime_ns
    assert canary.stat().st_atime_ns == 1


def test_each_field_alone_changes_the_fingerprint() -> None:
    changes: dict[str, object] = {
        "architecture": "other",
        "weights_digest": "cd" * 32,
        "taps": SPEC.taps[:1],
        "preprocess": {"input_size": [9, 9], "views": ["none"]},
        "decode": {"mode": "fast"},
        "precision": "bf16",
        "dtype": "float16",
        "view_merge": "concat",
        "format_version": 2,
    }
    assert set(changes) == {f.name for f in fields(ExtractSpec)}
    seen = {SPEC.fingerprint}
    for name, value in changes.items():
        other = replace(SPEC, **{name: value})  # type: ignore[arg-type]
        assert other.fingerprint not in seen
        seen.add(other.fingerprint)
        assert any(name in line for line in spec_difference(SPEC, other))
    assert ExtractSpec.from_json(SPEC.to_json()) == SPEC


def test_the_lock_names_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    code = (
        "import sys, time; from pathlib import Path; from featx.cache.lock import WriterLock\n"
        "with WriterLock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(CacheLockedError, match=rf"process {holder.pid} on .+ since 20"):
            WriterLock(path).__enter__()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()
    with WriterLock(path):  # the kernel dropped the lock with its holder
        assert json.loads((tmp_path / "c.h5.lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "c.h5.lock").exists()


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    write_bytes(path, b"old")

    def write() -> None:
        with durable_h5(path) as file:
            file["x"] = np.arange(10)
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("limit", [0, 1000, 5000, 20_000, 60_000, 100_000])
def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path: Path, limit: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "f.h5"

    def write() -> None:
        with durable_h5(path, needed=160_000) as file:
            for k in range(4):
                file[f"x{k}"] = np.arange(10_000, dtype=np.float32)

    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(NoSpaceError, match=r"160 kB needed, .* free"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
    with durable_h5(path) as file:  # HDF5 is still in good order
        file["x"] = 1
    assert h5py.is_hdf5(path)


def test_targets_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(CacheError, match=r"cache .* is a folder with other things in it"):
        require_target(tmp_path, None)
    with pytest.raises(CacheError, match=r"model .* is a folder; give the name of a file"):
        require_writable(tmp_path, "model")
    with pytest.raises(CacheError, match="does not exist"):
        require_target(tmp_path / "gone" / "c.h5", None)


def test_a_reader_keeps_its_file_while_it_is_replaced(cache: Path) -> None:
    with open_cache(cache) as before:
        old = np.asarray(before.X)
        make_cache(cache, make_rows(10, 5000))
        np.testing.assert_array_equal(np.asarray(before.X), old)
        assert before.ids[0] == "ü0"
    with open_cache(cache) as after:
        assert len(after) == 10
        assert after.verify().ok


def test_damaged_shards_are_computed_again(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, lambda: SPEC)
    writer.add(make_rows(600))
    writer.flush()
    folder = tmp_path / SPEC.fingerprint
    first, second = complete_shards(folder)
    first.write_bytes(first.read_bytes()[:1000])
    assert len(KnownRows(SPEC, None, folder)) in (600 - 512, 512)
    assert second.exists()


def test_a_new_decode_policy_says_what_changed() -> None:
    a = ExtractSpec("resnet18", "3f", (), {"input_size": [1, 2]}, {"policy": 1}, "fp32")
    b = ExtractSpec("resnet18", "3f", (), {"input_size": [3, 2]}, {"policy": 2}, "fp32")
    size, policy = spec_difference(a, b)
    assert size == "preprocess.input_size [1, 2] -> [3, 2]"
    assert policy.startswith("decode.policy 1 -> 2 (since 2, TIFFs that were read wrongly")


def test_features_outlive_the_name_of_their_cache(tmp_path: Path) -> None:
    X = np.arange(12, dtype=np.float32).reshape(4, 3)
    featx.write_cache(tmp_path / "c.h5", X, ids=list("abcd"))
    np.testing.assert_array_equal(np.asarray(featx.open_cache(tmp_path / "c.h5").X), X)
    kept = featx.open_cache(tmp_path / "c.h5").tap("vectors")
    gc.collect()
    np.testing.assert_array_equal(kept[1:3], X[1:3])


def test_a_script_that_leaves_a_cache_open_ends_in_silence(tmp_path: Path) -> None:
    featx.write_cache(tmp_path / "c.h5", np.ones((4, 3)), ids=list("abcd"))
    lines = [
        "import featx",
        f"c = featx.open_cache({str(tmp_path / 'c.h5')!r})",
        "class Keeper: pass",
        "one, two = Keeper(), Keeper()",
        "one.other, two.other, two.cache, one.X = two, one, c, c.X",
        "import atexit; atexit.register(lambda: None)",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_cache_that_is_open_elsewhere_in_the_process(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    featx.write_cache(path, np.ones((4, 3)), ids=list("abcd"))
    with h5py.File(path, "r"):
        assert len(featx.open_cache(path)) == 4
    with h5py.File(path, "a"), pytest.raises(CacheError, match="open elsewhere in this process"):
        featx.open_cache(path)
    with featx.open_cache(path), featx.open_cache(path) as second:
        assert len(second) == 4
