"""Every byte of a cache is covered: a digest of the whole file, and forms of its datasets."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import save_pictures

import featx
from featx.cache import split
from featx.cache.h5file import BLOCK_BYTES
from featx.cache.verify import verify_file
from featx.errors import CacheFormatError, FeatxError
from featx.extraction.extraction import extract

DIFFERS = "the digest of the whole file differs"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Path:
    """A cache of twelve pictures of which one more failed."""
    folder = tmp_path_factory.mktemp("whole")
    save_pictures(folder / "photos", 12)
    (folder / "photos" / "cat" / "bad.png").write_bytes(b"not a picture")
    extract(folder / "photos", folder / "c.h5", **tiny)
    return folder / "c.h5"


def change(path: Path, at: int, value: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[at] = data[at] ^ 0x10 if value is None else value
    path.write_bytes(data)


def test_anyone_can_check_the_digest_and_plain_h5py_opens_the_file(whole: Path) -> None:
    data = whole.read_bytes()
    head, digest = data[:BLOCK_BYTES], hashlib.blake2b(data[BLOCK_BYTES:], digest_size=32)
    assert head.split() == [b"featx-cache", b"digest", b"blake2b-256", digest.hexdigest().encode()]
    with h5py.File(whole) as file:
        assert file.userblock_size == BLOCK_BYTES
        assert file["features"].shape[0] == len(file["ids"].asstr()[:]) == 12
    assert verify_file(whole).ok
    assert verify_file(whole).unsealed == ()


def test_a_changed_letter_of_the_provenance_is_found(whole: Path, tmp_path: Path) -> None:
    path = shutil.copy(whole, tmp_path / "c.h5")
    change(path, whole.read_bytes().index(b'"source"') + 12)
    assert verify_file(path).problems == (f"its bytes are not those that were written: {DIFFERS}",)


@pytest.mark.parametrize("at", [0, 40, 95, 511])
def test_a_changed_byte_of_the_digest_itself_is_found(whole: Path, tmp_path: Path, at: int) -> None:
    path = shutil.copy(whole, tmp_path / "c.h5")
    change(path, at)
    assert DIFFERS in verify_file(path).problems[0]


def test_bytes_added_or_cut_off_at_the_end_are_found(whole: Path, tmp_path: Path) -> None:
    data = whole.read_bytes()
    for changed in (data + b"x", data[:-1], data[: len(data) // 2], data[:BLOCK_BYTES], b""):
        (tmp_path / "c.h5").write_bytes(changed)
        assert not verify_file(tmp_path / "c.h5").ok


def test_an_edit_by_h5py_is_found(whole: Path, tmp_path: Path) -> None:
    path = shutil.copy(whole, tmp_path / "c.h5")
    with h5py.File(path, "r+") as file:
        file["features"].attrs["note"] = "mine"
    assert DIFFERS in verify_file(path).problems[0]


def test_the_index_of_a_folder_is_covered_too(whole: Path, tmp_path: Path) -> None:
    split(whole, tmp_path / "parts", rows=5)
    index = tmp_path / "parts" / "index.h5"
    data = index.read_bytes()
    change(index, data.index(b'"source"') + 12)
    assert verify_file(tmp_path / "parts").problems == (
        f"index.h5: its bytes are not those that were written: {DIFFERS}",
    )
    index.write_bytes(data)
    for part in (tmp_path / "parts").glob("part-*"):
        change(part, 20)
        assert not verify_file(tmp_path / "parts").ok
        change(part, 20)
    assert verify_file(tmp_path / "parts").ok


def answers(path: Path) -> dict[str, str]:
    """What each reader says of a file; anything but a `FeatxError` passes through."""

    def info() -> None:
        with featx.open_cache(path) as cache:
            cache.info()

    def everything() -> None:
        with featx.open_cache(path) as cache:
            cache.to_frame(features=True)
            found = (cache.failed, cache.provenance, cache.labels, cache.content_digests)
            assert len(found) == 4

    found = {}
    for read in (info, everything):
        try:
            read()
        except FeatxError as error:
            found[read.__name__] = str(error)
    assert not any("\n" in said for said in found.values())
    return found


def refusal(command: Callable[[], Any]) -> str:
    """Run a command, and give the one line in which it ends, if it does not end well."""
    try:
        command()
    except FeatxError as error:
        return str(error)
    return ""


def put(name: str, data: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        if data is not None:
            file[name] = data

    return change


WRONG = {
    "ids are numbers": put("ids", np.arange(12)),
    "reasons are too few": put("failed/reasons", np.zeros(3, "S4")),
    "reasons are gone": put("failed/reasons", None),
    "digests have two axes": put("row_digest", np.zeros((12, 2), "S32")),
    "digests are too long": put("row_digest", np.zeros(12, "S64")),
    "labels are not codes": put("labels", np.full(12, 0.5)),
    "labels are one value": put("labels", 1),
    "features are one value": put("features", np.float32(1)),
    "features have one axis": put("features", np.zeros(12, np.float32)),
    "stamps have one axis": put("stamps", np.zeros(12, np.int64)),
    "classes are numbers": put("classes", np.arange(2)),
    "classes are gone": put("classes", None),
    "paths are too few": put("paths", np.zeros(11, "S4")),
    "the index has three columns": put("id_index", np.zeros((12, 3), np.uint64)),
    "split is numbers": put("split", np.zeros(12)),
    "a column has two axes": put("columns/x", np.zeros((12, 2))),
    "columns are a dataset": put("columns", np.zeros(12)),
    "failed is a dataset": put("failed", np.zeros(12)),
    "the spec is a list": put("spec", np.zeros(3, "S4")),
    "the spec is a number": put("spec", 7),
    "the provenance is a number": put("provenance", 7),
    "ids are empty": put("ids", h5py.Empty("S4")),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_thing_of_the_wrong_form_is_one_line(whole: Path, tmp_path: Path, name: str) -> None:
    path = shutil.copy(whole, tmp_path / "c.h5")
    with h5py.File(path, "r+") as file:
        WRONG[name](file)
    (problem,) = verify_file(path).problems
    said = answers(path)
    assert said["info"] == said["everything"] == problem
    for command in (
        lambda: featx.fit(path, "logreg"),
        lambda: featx.compare([path], heads=["logreg"]),
        lambda: split(path, tmp_path / "parts"),
    ):
        with pytest.raises(FeatxError):
            command()


def test_a_damaged_index_of_a_group_is_refused_on_opening(whole: Path, tmp_path: Path) -> None:
    data, path = whole.read_bytes(), tmp_path / "c.h5"
    places = [found.start() for found in re.finditer(b"TREE\\x00|SNOD|HEAP", data)]
    assert len(places) >= 6  # of the file itself and of the groups in it
    for at in places:
        path.write_bytes(data)
        change(path, at)
        with pytest.raises(CacheFormatError, match="is damaged"):
            featx.open_cache(path)


def test_a_damaged_type_of_an_attribute_is_refused(whole: Path, tmp_path: Path) -> None:
    """HDF5 took it for a list, and read it from wherever its bytes pointed to."""
    data, path = whole.read_bytes(), tmp_path / "c.h5"
    places = [found.start() + 1 for found in re.finditer(rb"\x19\x01\x01\x00\x10", data)]
    types = [at for at in places if re.search(rb"(encoding|fingerprint)", data[at - 30 : at])]
    assert len(types) == 3
    for at in types:
        for value in (0, data[at] ^ 0xFF):
            path.write_bytes(data)
            change(path, at, value)
            with pytest.raises(CacheFormatError):
                featx.open_cache(path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_any_changed_byte_is_found_and_ends_in_one_line(
    whole: Path, tmp_path: Path, seed: int
) -> None:
    rng, data, path = random.Random(seed), whole.read_bytes(), tmp_path / "c.h5"
    for _ in range(500):
        at = rng.randrange(len(data))
        path.write_bytes(data)
        change(path, at, rng.choice([k for k in range(256) if k != data[at]]))
        found = verify_file(path)
        assert not found.ok, at
        assert not any("\n" in problem for problem in found.problems), at
        answers(path)


@pytest.mark.slow
def test_a_file_with_a_changed_byte_is_fitted_and_extended_or_refused_in_one_line(
    whole: Path, tmp_path: Path, photos: Path, tiny: dict[str, Any]
) -> None:
    rng, data, path = random.Random(9), whole.read_bytes(), tmp_path / "c.h5"
    for _ in range(25):
        at = rng.randrange(len(data))
        for command in (
            lambda: featx.fit(path, "logreg", folds=2, out=tmp_path / "m.featx"),
            lambda: featx.compare([path], heads=["logreg"], folds=2),
            lambda: extract(photos, path, **tiny),
        ):
            path.write_bytes(data)
            change(path, at)
            assert "\n" not in refusal(command), at


KINDS: dict[str, Any] = {
    "whole numbers": np.arange(12),
    "numbers": np.zeros(12),
    "truth values": np.zeros(12, bool),
    "text": np.zeros(12, "S4"),
    "long text": np.array(["a"] * 12, h5py.string_dtype()),
    "rows of numbers": np.zeros((12, 3), np.float32),
    "one number": 7,
    "one text": "seven",
    "nothing": h5py.Empty("f4"),
    "records": np.zeros(12, [("a", "i4"), ("b", "f4")]),
    "three axes": np.zeros((12, 2, 2)),
    "a group": None,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_any_object_replaced_by_any_other_type_ends_in_one_line(
    whole: Path, tmp_path: Path, kind: str
) -> None:
    with h5py.File(whole) as file:
        names: list[str] = []
        file.visit(names.append)
    path = tmp_path / "c.h5"
    for name in names:
        shutil.copy(whole, path)
        with h5py.File(path, "r+") as file:
            del file[name]
            if KINDS[kind] is None:
                file.create_group(name)
            else:
                file[name] = KINDS[kind]
        found = verify_file(path)
        assert not found.ok, name
        assert not any("\n" in problem for problem in found.problems), name
        answers(path)
        for command in (
            lambda: featx.fit(path, "logreg", folds=2),
            lambda: featx.compare([path], heads=["logreg"], folds=2),
        ):
            assert "\n" not in refusal(command), name


def everything(path: Path) -> list[Any]:
    with featx.open_cache(path) as cache:
        found = [np.asarray(cache.X).tolist(), cache.labels, list(cache.ids), list(cache.paths)]
        return [*found, cache.failed, cache.content_digests.tolist(), cache.classes]


def test_damage_in_the_index_of_chunks_is_refused_and_never_read_as_zeros(
    whole: Path, tmp_path: Path
) -> None:
    """HDF5 has no checksum there, and gives zeros for a chunk that it does not find."""
    path, data, wanted = tmp_path / "c.h5", whole.read_bytes(), everything(whole)
    nodes = [found.start() for found in re.finditer(rb"TREE\x01", data)]
    refused = 0
    for at in [node + k for node in nodes for k in range(24, 24 + 2 * 24 + 8, 5)]:
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x04]) + data[at + 1 :])
        try:
            assert everything(path) == wanted, at
        except FeatxError:
            refused += 1
        assert not verify_file(path).ok
    assert len(nodes) > 5
    assert refused > len(nodes)


@pytest.mark.parametrize("command", ["info", "verify"])
def test_overwritten_texts_end_in_a_line_and_do_not_go_round_for_ever(
    whole: Path, tmp_path: Path, command: str
) -> None:
    data = bytearray(whole.read_bytes())
    at = data.index(b"GCOL") + 16
    while data[at]:  # objects with a number, then free space
        at += 16 + -(-int.from_bytes(data[at + 8 : at + 16], "little") // 8) * 8
    data[at : at + 16] = bytes(16)
    path = tmp_path / "c.h5"
    path.write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-m", "featx", command, path], capture_output=True, timeout=120
    )
    assert done.returncode == 1
    assert b"the texts that describe it are overwritten" in done.stdout + done.stderr
    assert b"Traceback" not in done.stderr
