"""Containers of images: tars, Parquet and saved data sets give what a folder gives."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Shell, save_pictures
from containers import (
    make_old,
    pictures_of,
    rows_by_content,
    write_parquet,
    write_shards,
    write_tar,
)

import featx
from featx.columns import Prefixed, Text, first_duplicate
from featx.errors import ImageError, MissingExtraError, SourceError
from featx.extraction.extraction import extract
from featx.items import Manifest
from featx.sources import tarindex
from featx.sources.load import load_manifest, read_again
from featx.sources.patterns import expand_braces

Options = dict[str, Any]


pytestmark = pytest.mark.usefixtures("home")


def save_set(folder: Path, photos: Path, splits: bool = False) -> Path:
    datasets = pytest.importorskip("datasets")
    samples = pictures_of(photos)
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=["cat", "dog"]),
            "note": datasets.Value("string"),
        }
    )

    def made(part: list[Any]) -> Any:
        columns = {
            "picture": [{"bytes": data, "path": None} for _, _, data in part],
            "kind": [name for _, name, _ in part],
            "note": [key for key, _, _ in part],
        }
        return datasets.Dataset.from_dict(columns, features=features)

    if splits:
        both = {"train": made(samples[:8]), "test": made(samples[8:])}
        datasets.DatasetDict(both).save_to_disk(folder)
    else:
        made(samples).save_to_disk(folder)
    for path in folder.rglob("*"):
        make_old(path)
    return folder


def containers(photos: Path, place: Path) -> dict[str, str | Path]:
    """The same pictures in every kind of container."""
    write_parquet(place / "many" / "train-0.parquet", photos)
    return {
        "tar": write_tar(
            place / "one.tar", [(f"./{c}/{k}.png", d) for k, c, d in pictures_of(photos)]
        ),
        "tars": write_shards(place / "shards", photos),
        "braces": str(place / "shards" / "train-{000..002}.tar"),
        "wildcard": str(place / "shards" / "*.tar"),
        "parquet": write_parquet(place / "one.parquet", photos),
        "binary": write_parquet(place / "plain.parquet", photos, kind="binary"),
        "parquets": place / "many",
        "saved": save_set(place / "saved", photos),
        "splits": save_set(place / "splits", photos, splits=True),
    }


def test_features_are_those_of_the_class_folder(
    photos: Path, tmp_path: Path, tiny: Options
) -> None:
    extract(photos, tmp_path / "folder.h5", **tiny)
    expected = rows_by_content(tmp_path / "folder.h5")
    assert len(expected) == 12
    for name, source in containers(photos, tmp_path / "c").items():
        cache = tmp_path / f"{name}.h5"
        result = extract(source, cache, **tiny, threads=3, batch_size=5)
        assert (result.discovered, result.embedded, result.failed) == (12, 12, 0), name
        assert rows_by_content(cache) == expected, name


def test_nothing_to_do_reads_no_image(
    photos: Path, tmp_path: Path, tiny: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    for name, source in containers(photos, tmp_path / "c").items():
        cache = tmp_path / f"{name}.h5"
        extract(source, cache, **tiny)
        before = cache.stat().st_ino
        reader = type(load_manifest(source).read)
        original = reader.__call__
        with monkeypatch.context() as patch:
            patch.setattr(
                reader, "__call__", lambda self, i, call=original: read.append(i) or call(self, i)
            )
            again = extract(source, cache, **tiny)
        assert (again.embedded, again.reused) == (0, 12), name
        assert cache.stat().st_ino == before, name
    assert read == []


def test_a_changed_container_is_read_again(photos: Path, tmp_path: Path, tiny: Options) -> None:
    folder, cache = tmp_path / "shards", tmp_path / "c.h5"
    write_shards(folder, photos)
    extract(folder, cache, **tiny)
    before = pictures_of(photos)
    save_pictures(photos, 3, first=700)
    samples = [(f"{c}/{k}.png", d) for k, c, d in pictures_of(photos)]
    write_tar(folder / "train-003.tar", samples[-3:])
    write_tar(folder / "train-001.tar", [(n, d) for n, d in samples[:2]])
    result = extract(folder, cache, **tiny)
    assert result.discovered == 4 + 2 + 4 + 3
    assert result.embedded == sum("/07" in name for name, _ in samples[-3:])
    kept = [*before[0::3], *before[2::3]]  # of the shards that are as they were
    kept += [*pictures_of(photos)[:2], *pictures_of(photos)[-3:]]
    wanted = {hashlib.sha256(data).hexdigest().encode() for _, _, data in kept}
    assert set(rows_by_content(cache)) == wanted


def test_manifests_are_read_in_another_process(photos: Path, tmp_path: Path) -> None:
    sources = {**containers(photos, tmp_path / "c"), "folder": photos, "digits": "digits"}
    for name, source in sources.items():
        here = load_manifest(source)
        there: Manifest = pickle.loads(pickle.dumps(here))
        assert list(there.ids) == list(here.ids), name
        assert list(there.paths) == list(here.paths), name
        for item in (0, 7, len(here) - 1):
            assert there.read(item) == here.read(item), name


def test_ids_labels_and_columns_of_a_tar(tmp_path: Path, photos: Path) -> None:
    (_, _, one), (_, _, two), *_ = pictures_of(photos)
    write_tar(
        tmp_path / "x.tar",
        [
            ("a/1.png", one),
            ("a/1.json", b'{"label": "owl", "group": "p1", "box": [1, 2], "age": 4.10}'),
            ("a/2.jpg", two),
            ("a/2.seg.png", one),
            ("a/2.json", b'{"label": "cat", "group": "p2", "age": 5}'),
            ("a/2.txt", "ein schöner Vogel".encode()),
            ("README.md", b"no image"),
            ("._1.png", b"of a Mac"),
        ],
    )
    found = load_manifest(tmp_path / "x.tar")
    assert found.ids == ["x.tar/a/1.png", "x.tar/a/2.jpg"]
    assert found.paths == [f"{tmp_path}/x.tar/a/1.png", f"{tmp_path}/x.tar/a/2.jpg"]
    assert found.labels == ["owl", "cat"]
    assert list(found.columns["group"]) == ["p1", "p2"]
    assert list(found.columns["age"]) == ["4.10", "5"]
    assert list(found.columns["box"]) == ["[1, 2]", ""]
    assert list(found.columns["txt"]) == ["", "ein schöner Vogel"]
    assert found.ignored == 3
    assert found.read(1)[0] == two


def test_names_with_several_dots_keep_their_labels(
    tmp_path: Path, photos: Path, home: Path
) -> None:
    images = [data for _, _, data in pictures_of(photos)]
    members = [
        ("IMG.001.png", images[0]),
        ("IMG.001.cls", b"owl"),
        ("IMG.002.PNG", images[1]),
        ("IMG.002.cls", b"cat"),
        ("v1.0.png", images[2]),
        ("v1.cls", b"dog"),
        ("x.png", images[3]),
        ("x.cls", b"cat"),
        ("x.b.png", images[4]),
        ("x.b.cls", b"owl"),
        ("x.seg.png", images[5]),
        ("y.png", images[6]),
        ("y.png.cls", b"dog"),
        ("y.boxes.json", b" " * (2 << 20)),
    ]
    write_tar(tmp_path / "x.tar", members)
    for _ in range(3):  # the last time from the index that was kept
        found = load_manifest(tmp_path / "x.tar")
        names = ["IMG.001.png", "IMG.002.PNG", "v1.0.png", "x.png", "x.b.png", "y.png"]
        assert found.ids == [f"x.tar/{name}" for name in names]
        assert found.labels == ["owl", "cat", "dog", "cat", "owl", None]
        assert not found.refused
        assert found.ignored == 3
        said = {entry["code"]: entry["message"] for entry in found.notes}
        assert said["tar-pictures-beside"].startswith("1 pictures, the first 'x.seg.png', ")
        assert said["tar-labels-unused"].startswith("1 labels, the first 'y.png.cls', are of no")
        os.utime(tmp_path / "x.tar", ns=(10**18, 10**18))


def test_names_of_shards_tell_the_split(photos: Path, tmp_path: Path) -> None:
    members = [(f"{k}.png", d) for k, _, d in pictures_of(photos)]
    write_tar(tmp_path / "s" / "train-0.tar", members[:3])
    write_tar(tmp_path / "s" / "val-0.tar", members[3:5])
    assert load_manifest(tmp_path / "s").split == ["train"] * 3 + ["validation"] * 2
    only = load_manifest(tmp_path / "s" / "train-0.tar")
    assert only.split is None
    assert only.labels is None
    saved = load_manifest(save_set(tmp_path / "saved", photos, splits=True))
    assert saved.split == ["train"] * 8 + ["test"] * 4
    assert saved.ids[:9:8] == ["train/0", "test/0"]
    assert saved.labels is not None
    assert saved.labels[0] == "cat"
    assert list(saved.columns["note"]) == [k for k, _, _ in pictures_of(photos)]


def test_names_that_are_almost_a_split_are_said(photos: Path, tmp_path: Path) -> None:
    members = [(f"{k}.png", d) for k, _, d in pictures_of(photos)]
    write_tar(tmp_path / "s" / "train-0.tar", members[:3])
    write_tar(tmp_path / "s" / "dev-0.tar", members[3:5])
    found = load_manifest(tmp_path / "s")
    assert found.split is None
    assert [(one["code"], "dev names no split" in one["message"]) for one in found.notes] == [
        ("split-names", True)
    ]
    assert not load_manifest(tmp_path / "s" / "dev-0.tar").notes
    write_tar(tmp_path / "t" / "train-0.tar", [("1.png", b"x"), ("1.json", b'{"split": "test"}')])
    write_tar(tmp_path / "t" / "dev-0.tar", [("2.png", b"y")])
    assert not load_manifest(tmp_path / "t").notes


def test_a_broken_tar_keeps_what_is_before_the_break(
    photos: Path, tmp_path: Path, tiny: Options
) -> None:
    members = [(f"{c}/{k}.png", d) for k, c, d in pictures_of(photos)]
    folder = tmp_path / "shards"
    write_tar(folder / "0-whole.tar", members[:4])
    cut = write_tar(folder / "1-cut.tar", members[4:8])
    with tarfile.open(cut) as tar:
        last = tar.getmembers()[-1]
    cut.write_bytes(cut.read_bytes()[: last.offset_data + 100])
    hurt = write_tar(folder / "2-hurt.tar", members[8:])
    with tarfile.open(hurt) as tar:
        second = tar.getmembers()[1]
    data = bytearray(hurt.read_bytes())
    data[second.offset : second.offset + 300] = b"\xff" * 300
    hurt.write_bytes(data)
    (folder / "3-none.tar").write_bytes(b"this is not a tar" * 100)
    result = extract(folder, tmp_path / "c.h5", **tiny)
    assert result.embedded == 4 + 3 + 1
    assert list(result.failures) == [
        "3-none.tar", f"1-cut.tar/{members[7][0]}", "2-hurt.tar/(end)",
    ]  # fmt: skip
    reasons = list(result.failures.values())
    assert "not a tar" in reasons[0]
    assert f"100 of its {last.size} bytes" in reasons[1]
    assert f"damaged at byte {second.offset}" in reasons[2]
    assert result.discovered == result.embedded + result.failed


def test_a_tar_without_its_end_mark_is_said(photos: Path, tmp_path: Path) -> None:
    members = [(f"{k}.png", d) for k, _, d in pictures_of(photos)]
    path = write_tar(tmp_path / "x.tar", members)
    with tarfile.open(path) as tar:
        third = tar.getmembers()[3]
    path.write_bytes(path.read_bytes()[: third.offset])
    found = load_manifest(path)
    assert len(found) == 3
    assert "cut off" in found.refused["x.tar/(end)"]


def test_members_that_are_no_files(photos: Path, tmp_path: Path) -> None:
    key, _, data = pictures_of(photos)[0]
    path = write_tar(tmp_path / "x.tar", [(f"{key}.png", data), (f"{key}.png", data)])
    with tarfile.open(path, "a") as tar:
        for name, kind in (
            ("link.png", tarfile.SYMTYPE),
            ("hard.png", tarfile.LNKTYPE),
            ("device.png", tarfile.CHRTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    found = load_manifest(path)
    assert found.ids == [f"x.tar/{key}.png"]
    assert found.refused == {
        f"x.tar/{key}.png (2)": "stands more than once; the first is taken",
        "x.tar/link.png": "a link (to /etc/passwd); links in a tar are not followed",
        "x.tar/hard.png": "a link (to /etc/passwd); links in a tar are not followed",
        "x.tar/device.png": "not a regular file",
    }


def test_a_missing_shard_is_named_and_others_go_on(photos: Path, tmp_path: Path) -> None:
    write_shards(tmp_path, photos)
    (tmp_path / "train-001.tar").unlink()
    found = load_manifest(str(tmp_path / "train-{000..002}.tar"))
    assert len(found) == 8
    assert found.refused == {"train-001.tar": "file not found"}


def test_an_index_is_kept_until_the_tar_changes(photos: Path, tmp_path: Path, home: Path) -> None:
    path = write_shards(tmp_path, photos, 1) / "train-000.tar"
    first = load_manifest(path)
    kept = list((home / "tars").iterdir())
    assert len(kept) == 1
    assert list(load_manifest(path).ids) == list(first.ids)
    kept[0].write_bytes(kept[0].read_bytes()[:100])
    assert list(load_manifest(path).ids) == list(first.ids)
    write_tar(path, [(f"{k}.png", d) for k, _, d in pictures_of(photos)[:2]])
    with pytest.raises(ImageError, match="changed while it was read"):
        first.read(0)
    assert len(load_manifest(path)) == 2


def test_a_fresh_tar_is_not_trusted(photos: Path, tmp_path: Path, home: Path) -> None:
    path = write_shards(tmp_path, photos, 1) / "train-000.tar"
    path.touch()
    assert len(load_manifest(path)) == 12
    assert not (home / "tars").exists()


def test_a_home_that_cannot_be_written_stops_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("FEATX_CACHE_HOME", str(tmp_path / "file"))
    assert len(load_manifest(write_shards(tmp_path / "s", photos))) == 12


def test_compressed_tars_are_refused(photos: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        tar.add(photos, "photos")
    with pytest.raises(SourceError, match=r"compressed \(gzip\).*decompress it first"):
        load_manifest(tmp_path / "x.tar.gz")


def test_a_row_group_is_read_once(
    photos: Path, tmp_path: Path, tiny: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_parquet(tmp_path / "x.parquet", photos, rows_in_group=4)
    groups: list[int] = []
    original = pq.ParquetFile.iter_batches

    def counted(self: Any, *rows: int, **options: Any) -> Any:
        groups.extend(options["row_groups"])
        return original(self, *rows, **options)

    found = load_manifest(path)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    for item in range(12):
        found.read(item)
    assert groups == [0, 1, 2]


def test_rows_without_an_image_fail_alone(photos: Path, tmp_path: Path, tiny: Options) -> None:
    samples = pictures_of(photos)
    images = [{"bytes": d, "path": None} for _, _, d in samples[:3]]
    images += [None, {"bytes": None, "path": None}, {"bytes": b"nonsense", "path": "x.png"}]
    images += [{"bytes": None, "path": str(photos / "cat" / "0000.png")}]
    images += [{"bytes": None, "path": "gone.png"}]
    table = pa.table({"image": images, "label": list("aaabbbab")})
    pq.write_table(table, tmp_path / "x.parquet")
    result = extract(tmp_path / "x.parquet", tmp_path / "c.h5", **tiny)
    assert result.failures == {
        "x.parquet/3": "the row holds no image (null)",
        "x.parquet/4": "the row holds no image (null)",
        "x.parquet/5": "not an image of a known format",
        "x.parquet/7": "file not found",
    }
    assert result.embedded == 4


def test_parquet_that_holds_paths_stays_a_table(photos: Path, tmp_path: Path) -> None:
    table = pa.table({"path": [str(photos / "cat" / "0000.png")], "sketch": [b"bytes"]})
    pq.write_table(table, tmp_path / "x.parquet")
    found = load_manifest(tmp_path / "x.parquet")
    assert found.ids == [str(photos / "cat" / "0000.png")]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"], "n": [1]}, r"no column of images.*text \((large_)?string\), n \(int64\)"),
        ({"left": [b"a"], "right": [b"b"]}, "left, right may all hold images"),
        ({"image": pa.array([], pa.binary())}, "has no rows"),
        ({"image": [b"a", b"b"], "id": ["x", "x"]}, "'x' stands in rows 1 and 2"),
    ],
)
def test_parquet_that_cannot_be_used(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(SourceError, match=message):
        load_manifest(tmp_path / "x.parquet")


def test_files_that_are_no_parquet(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    whole = write_parquet(folder / "b.parquet", photos)
    (folder / "a.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(SourceError, match="is no Parquet file"):
        load_manifest(folder / "a.parquet")
    found = load_manifest(folder)
    assert len(found) == 12
    assert list(found.refused) == ["a.parquet"]
    data = bytearray(whole.read_bytes())
    data[4:1000] = b"\xff" * 996
    whole.write_bytes(data)
    with pytest.raises(ImageError, match=r"row group 0 of b.parquet is damaged"):
        load_manifest(whole).read(0)
    with pytest.raises(ImageError, match="changed while it was read"):
        found.read(0)


def test_folders_that_are_no_data_set(photos: Path, tmp_path: Path) -> None:
    folder = save_set(tmp_path / "saved", photos)
    next(folder.glob("*.arrow")).write_bytes(b"")
    with pytest.raises(SourceError, match="not a data set that `datasets` can load"):
        load_manifest(folder)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "dataset_info.json").write_text("{}")
    with pytest.raises(SourceError, match="not a data set that `datasets` can load"):
        load_manifest(tmp_path / "half")


def test_a_split_without_labels_does_not_take_those_of_another(
    photos: Path, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    whole = datasets.load_from_disk(save_set(tmp_path / "whole", photos))
    bare = whole.select_columns(["picture"])
    datasets.DatasetDict({"test": bare, "train": whole}).save_to_disk(tmp_path / "mixed")
    with pytest.raises(SourceError, match="some splits have columns beside the images"):
        load_manifest(tmp_path / "mixed")


def test_a_data_set_without_images(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": ["a"], "n": [1]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(SourceError, match=r"no column of images.*text \(string\), n \(int64\)"):
        load_manifest(tmp_path / "saved")


def test_the_package_datasets_is_named(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_set(tmp_path / "saved", photos)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"featx\[datasets\]"):
        load_manifest(folder)


def test_two_kinds_in_one_folder(photos: Path, tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "both", photos)
    write_parquet(folder / "x.parquet", photos)
    with pytest.raises(SourceError, match="both tars"):
        load_manifest(folder)
    assert len(load_manifest(str(folder / "*.tar"))) == 12
    with pytest.raises(SourceError, match="no file matches"):
        load_manifest(str(folder / "*.zip"))
    (folder / "notes.txt").write_text("")
    with pytest.raises(SourceError, match="neither all tars"):
        load_manifest(str(folder / "*"))


def test_patterns_of_pictures(photos: Path) -> None:
    assert len(load_manifest(str(photos / "{cat,dog}" / "*.png"))) == 12
    assert expand_braces("a{08..11}{x,y}")[::3] == ["a08x", "a09y", "a11x"]
    assert expand_braces("{3..1}") == ["3", "2", "1"]
    for text in ("a{b}", "a{1..", "{0..9999999}", "{0..9999}{0..9999}"):
        with pytest.raises(SourceError):
            expand_braces(text)


def test_predict_over_a_tar(photos: Path, tmp_path: Path, tiny: Options) -> None:
    save_pictures(photos, 20, first=20)
    extract(photos, tmp_path / "c.h5", **tiny)
    featx.fit(tmp_path / "c.h5", head="ridge", out=tmp_path / "m.featx", seed=0)
    shards = write_shards(tmp_path / "shards", photos)
    model = featx.load_model(tmp_path / "m.featx")
    named = {"backbone": tiny["backbone"], "progress": False}
    by_folder = model.predict(photos, **named).to_frame()
    by_tar = model.predict(shards, out=tmp_path / "p.csv", **named)
    assert (by_tar.predicted, by_tar.failed) == (32, 0)
    table = by_tar.to_frame()
    labels = dict(zip(by_folder["id"].str[-8:], by_folder["label"], strict=True))
    assert dict(zip(table["id"].str[-8:], table["label"], strict=True)) == labels


def test_the_shell_counts_what_failed(
    photos: Path, tmp_path: Path, tiny_flags: list[str], shell: Shell
) -> None:
    members = [(f"{k}.png", d) for k, _, d in pictures_of(photos)]
    write_tar(tmp_path / "x.tar", [*members, ("13.png", b"no picture"), ("notes.md", b"")])
    done = shell("extract", tmp_path / "x.tar", tmp_path / "c.h5", *tiny_flags, "--json")
    assert done.returncode == 3
    found = json.loads(done.stdout.splitlines()[-1])
    counts = {k: found[k] for k in ("discovered", "embedded", "reused", "failed", "ignored")}
    assert counts == {"discovered": 13, "embedded": 12, "reused": 0, "failed": 1, "ignored": 1}
    assert "failed: x.tar/13.png: not an image of a known format" in done.stderr
    done = shell("extract", tmp_path / "no.tar", tmp_path / "c.h5", *tiny_flags)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_the_images_of_a_cache_are_found_again(photos: Path, tmp_path: Path) -> None:
    sources = {**containers(photos, tmp_path / "c"), "folder": photos, "digits": "digits"}
    sources["list"] = sorted(photos.rglob("*.png"))  # type: ignore[assignment]
    for name, source in sources.items():
        found = load_manifest(source)
        read = read_again(found.name, list(found.ids), list(found.paths))
        for item in (3, len(found) - 1):
            assert read(item) == found.read(item)[0], name
    tar = load_manifest(sources["tar"])
    with pytest.raises(ImageError, match=r"one.tar/gone.png is no longer in"):
        read_again(tar.name, ["one.tar/gone.png"], ["c/one.tar/gone.png"])(0)


def test_text_is_a_list_of_strings() -> None:
    names = ["b", "", "ä", "a" * 70_000, "z"]
    text = Text.of(names)
    assert text == names
    assert text[1:4] == names[1:4]
    assert text[::-2] == names[::-2]
    assert text[-1] == "z"
    assert list(text.take(text.order())) == sorted(names)
    assert Text.joined([text, text.prefixed("p/")]) == names + [f"p/{n}" for n in names]
    assert Prefixed("p/", text) == [f"p/{n}" for n in names]
    assert text != [*names, "more"]
    with pytest.raises(IndexError):
        text[5]
    many = Text.of(map(str, range(70_000)))
    assert many[69_999] == "69999"
    assert sum(1 for _ in many) == 70_000


def test_duplicates_are_found_exactly() -> None:
    assert first_duplicate(Text.of(map(str, range(1000)))) is None
    assert first_duplicate(["x", "a", "b", "a", "b"]) == (1, 3)
    # -1 and -2 have the same hash, and so may two names.
    assert hash(-1) == hash(-2)
    assert first_duplicate([-1, -2]) is None  # type: ignore[list-item]


def test_a_tar_is_indexed_by_its_headers_alone(photos: Path, tmp_path: Path) -> None:
    path = write_shards(tmp_path, photos, 1) / "train-000.tar"
    found = tarindex.index_tar(str(path), load_manifest(path).read.containers[0].stamp)  # type: ignore[attr-defined]
    data = path.read_bytes()
    for row in found.table.to_pylist():
        at = slice(row["offset"], row["offset"] + row["size"])
        assert data[at].startswith(b"\x89PNG")
    assert np.all(np.diff(found.table["offset"].to_numpy()) > 0)


def test_an_item_takes_tens_of_bytes(tmp_path: Path) -> None:
    n = 20_000
    images = pa.array([{"bytes": b"x", "path": None}] * n)
    names = [f"class {k % 7}" for k in range(n)]
    pq.write_table(pa.table({"image": images, "label": names}), tmp_path / "x.parquet")
    found = load_manifest(tmp_path / "x.parquet")
    assert len(found) == n
    # What is sent to another process is what is held, but for 8 bytes a label.
    assert len(pickle.dumps(found)) / n < 60


@pytest.mark.parametrize("way", ["/", "../", "./", "../../"])
def test_the_way_that_names_in_a_tar_begin_with_is_neither_a_class_nor_hidden(
    tmp_path: Path, photos: Path, way: str
) -> None:
    (_, _, one), (_, _, two), *_ = pictures_of(photos)
    write_tar(tmp_path / "x.tar", [(f"{way}cat/1.png", one), (f"{way}dog/2.png", two)])
    found = load_manifest(tmp_path / "x.tar")
    assert found.labels == ["cat", "dog"]
    assert found.ignored == 0
    assert [found.read(item)[0] for item in range(2)] == [one, two]


def test_a_byte_order_mark_is_no_part_of_a_label(tmp_path: Path, photos: Path) -> None:
    (_, _, one), (_, _, two), *_ = pictures_of(photos)
    mark = b"\xef\xbb\xbf"
    write_tar(tmp_path / "c.tar", [("1.png", one), ("1.cls", mark + b"owl")])
    write_tar(tmp_path / "j.tar", [("2.png", two), ("2.json", mark + b'{"label": "owl"}')])
    assert load_manifest(tmp_path / "c.tar").labels == ["owl"]
    assert load_manifest(tmp_path / "j.tar").labels == ["owl"]


def described(place: Path, members: dict[str, bytes]) -> Manifest:
    """A tar with a picture, 1.png, 2.png, ..., beside each of these members."""
    image = (1, 2, 3, 4)
    pictures = [(f"{Path(name).stem}.png", bytes([k, *image])) for k, name in enumerate(members)]
    write_tar(place, [*pictures, *members.items()])
    return load_manifest(place)


def test_a_list_of_names_in_json_is_several_labels(tmp_path: Path) -> None:
    labels = (b'["owl", "cat"]', b'["cat"]', b"[]", b"null", b'"owl"', b"[7, 10]", b"1.50")
    members = {f"{k}.json": b'{"label": %s}' % label for k, label in enumerate(labels)}
    wanted = [("cat", "owl"), ("cat",), (), None, ("owl",), ("10", "7"), ("1.50",)]
    assert described(tmp_path / "x.tar", members).labels == wanted


@pytest.mark.parametrize(
    "label", ['{"a": 1}', "[[1, 2]]", "[0.1, 0.9]", '["a|b"]', '[""]', "[true]"]
)
def test_a_label_in_json_that_names_nothing_is_refused(tmp_path: Path, label: str) -> None:
    members = {"1.json": b'{"label": "owl"}', "2.json": b'{"label": %s}' % label.encode()}
    wanted = r"x.tar/2.png: its .json has the label .*; expected a name, a number, or a list"
    with pytest.raises(SourceError, match=wanted):
        described(tmp_path / "x.tar", members)
    # The label is that of .cls, where there is one.
    members["1.cls"] = b"cat"
    assert load_manifest(write_tar(tmp_path / "y.tar", [("1.png", b"x"), *members.items()])).labels


def test_json_without_fields_is_said(tmp_path: Path) -> None:
    found = described(tmp_path / "x.tar", {"1.json": b'{"label": "ow', "2.json": b'["a"]'})
    assert [one["code"] for one in found.notes] == ["tar-json-unread"]
    assert found.notes[0]["message"].startswith("the .json of 2 pictures, the first 'x.tar/1.png'")


def test_json_called_as_the_whole_name_of_its_picture_is_said(tmp_path: Path) -> None:
    members = [("1.jpg", b"x"), ("1.jpg.json", b'{"label": "owl"}'), ("1.boxes.json", b"[]")]
    write_tar(tmp_path / "x.tar", members)
    found = load_manifest(tmp_path / "x.tar")
    assert found.labels is None
    assert found.ignored_by_extension == {".json": 2}
    (said,) = found.notes
    assert said["code"] == "tar-labels-unused"
    assert "1 labels, the first '1.jpg.json', are of no picture" in said["message"]


def test_text_in_a_tar_is_decoded_as_a_table_is(tmp_path: Path, home: Path) -> None:
    words = {"1.cls": "Käfer".encode("cp1252"), "2.cls": "Möwe".encode("cp1252")}
    words |= {"3.cls": "Möwe".encode(), "4.cls": "Möwe".encode("utf-16")}
    described(tmp_path / "x.tar", words)
    for _ in range(2):  # the last time from the index that was kept
        os.utime(tmp_path / "x.tar", ns=(10**18, 10**18))
        found = load_manifest(tmp_path / "x.tar")
        assert found.labels == ["Käfer", "Möwe", "Möwe", "Möwe"]
        assert [one["code"] for one in found.notes] == ["tar-text-encoding"]
        assert (
            "2 texts beside pictures, the first '1.cls', are read as Windows-1252"
            in (found.notes[0]["message"])
        )


def test_half_a_character_in_json_is_written_out(tmp_path: Path) -> None:
    found = described(tmp_path / "x.tar", {"1.json": rb'{"label": "\ud800x", "\udfff": "\ud800"}'})
    assert found.labels == [r"\xed\xa0\x80x"]
    assert list(found.columns[r"\xed\xbf\xbf"]) == [r"\xed\xa0\x80"]
