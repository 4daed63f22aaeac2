"""Shards of a source: each run does its part alone, and all of them together what one run does."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Shell, picture, save_pictures
from containers import make_old, pictures_of, write_tar

import featx
from featx.cache import merge, open_cache
from featx.errors import CacheError, CacheMismatchError, ExtractError, FeatxError, SourceError
from featx.extraction.extraction import extract
from featx.items import Manifest
from featx.model.references import same_options
from featx.slices import Slice, SliceCounter
from featx.sources import table as tables
from featx.sources.fields import table_columns, table_labels
from featx.sources.load import load_manifest, read_again

Options = dict[str, Any]

_opened: list[str] = []
_listening: list[bool] = []


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if _listening and event == "open" and isinstance(arguments[0], (str, bytes)):
        _opened.append(str(arguments[0]))


sys.addaudithook(_listen)


@contextmanager
def opened() -> Iterator[list[str]]:
    """Paths that this process opens meanwhile."""
    _opened.clear()
    _listening.append(True)
    try:
        yield _opened
    finally:
        _listening.clear()


pytestmark = pytest.mark.usefixtures("home")


def tars(folder: Path, photos: Path) -> Path:
    """Five tars in two splits; only some say something of their pictures, and not the same."""
    samples = pictures_of(photos)
    for k in range(5):
        members: list[tuple[str, bytes]] = []
        for n, (key, name, data) in enumerate(samples[k::5]):
            members.append((f"{key}.png", data))
            if k in (0, 3):
                about = {"label": f"{name} {k}", "age": n if k else n + 0.5, "sure": bool(k)}
                members.append((f"{key}.json", json.dumps(about).encode()))
        write_tar(folder / f"{'train' if k < 3 else 'test'}-{k}.tar", members)
    (folder / "notes.md").write_text("no picture")
    return folder


def parquets(folder: Path, photos: Path) -> Path:
    folder.mkdir()
    samples = pictures_of(photos)
    for k in range(4):
        rows = samples[k::4]
        frame = pd.DataFrame(
            {
                "image": [data for _, _, data in rows],
                "label": [f"{name}-{k % 3}" for _, name, _ in rows],
                "note": ["x" * (n + k) for n in range(len(rows))],
            }
        )
        frame.to_parquet(folder / f"{k}.parquet")
        make_old(folder / f"{k}.parquet")
    return folder


def table(path: Path, photos: Path) -> Path:
    rows = [
        {
            "path": str(p.relative_to(path.parent)),
            "label": f"class {k % 4}" if k % 5 else "",
            "split": ("train", "test", "val")[k % 3],
            "age": k if k != 7 else "",
            "code": f"{k:03d}" if k else "A",
            "group": k // 3,
        }
        for k, p in enumerate(sorted(photos.rglob("*.png")))
    ]
    frame = pd.DataFrame(rows)
    if path.suffix == ".parquet":
        frame = frame.assign(age=pd.to_numeric(frame["age"]))
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    return path


def saved(folder: Path, photos: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    samples = pictures_of(photos)

    def made(part: list[Any]) -> Any:
        pictures = [{"bytes": data, "path": None} for _, _, data in part]
        notes = [f"{key} {name}" for key, name, _ in part]
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.Value("string")},
        )
        return datasets.Dataset.from_dict({"image": pictures, "label": notes}, features=features)

    both = {"train": made(samples[:9]), "test": made(samples[9:])}
    datasets.DatasetDict(both).save_to_disk(folder)
    for path in folder.rglob("*"):
        make_old(path)
    return folder


KINDS = ("folder", "tars", "pattern", "parquets", "csv", "parquet table", "list", "saved", "url")


def source_of(kind: str, photos: Path, place: Path) -> Any:
    if kind == "folder":
        save_pictures(photos / "a third", 3, first=300)
        (photos / "cat" / "bad.png").write_bytes(b"no picture")
        (photos / "dog" / "gone.png").symlink_to(place / "nothing")
        (photos / "notes.md").write_text("no picture")
        return photos
    if kind == "list":
        return [str(path) for path in sorted(photos.rglob("*.png"), reverse=True)]
    if kind == "url":
        fsspec = pytest.importorskip("fsspec")
        files = fsspec.filesystem("memory")
        for path in photos.rglob("*.png"):
            name = path.relative_to(photos).as_posix()
            files.pipe_file(f"/slices/{name}", path.read_bytes())
        return "memory://slices"
    if kind == "pattern":
        return str(tars(place / "s", photos) / "{test,train}-*.tar")
    if kind in ("csv", "parquet table"):
        return table(place / f"t.{'csv' if kind == 'csv' else 'parquet'}", photos)
    return {"tars": tars, "parquets": parquets, "saved": saved}[kind](place / "s", photos)


def by_id(path: Path) -> dict[str, tuple[Any, ...]]:
    """Everything that a cache says of each row."""
    with open_cache(path) as found:
        labels = found.labels if found.labels is not None else [None] * len(found)
        split = found.split or [""] * len(found)
        names = sorted(found.columns)
        columns = zip(*(found.columns[name] for name in names), strict=True) if names else ()
        about = list(columns) or [()] * len(found)
        X, digests = np.asarray(found.X), found.content_digests.tolist()
        rows = zip(found.ids, found.paths, labels, split, about, X, digests, strict=True)
        return {
            item: (
                where,
                label,
                part,
                dict(zip(names, map(repr, more), strict=True)),
                x.tobytes(),
                d,
            )
            for item, where, label, part, more, x, d in rows
        }


def shards_of(source: Any, place: Path, n: int, options: Options) -> list[Path]:
    """Extract all shards, the last one first."""
    place.mkdir(exist_ok=True)
    paths = [place / f"{k}.h5" for k in range(n, 0, -1)]
    for k, path in zip(range(n, 0, -1), paths, strict=True):
        extract(source, path, **options, shard=(k, n))
    return paths


@pytest.mark.parametrize("kind", KINDS)
def test_all_shards_are_what_one_run_gives(
    kind: str, photos: Path, tmp_path: Path, tiny: Options
) -> None:
    source = source_of(kind, photos, tmp_path)
    whole = extract(source, tmp_path / "whole.h5", **tiny)
    paths = shards_of(source, tmp_path / "parts", 3, tiny)
    wanted = by_id(tmp_path / "whole.h5")
    parts = [by_id(path) for path in paths]
    assert all(0 < len(part) < len(wanted) for part in parts)
    assert sum(map(len, parts)) == len(wanted)
    assert {name for part in parts for name in part} == set(wanted)
    done = merge(paths, tmp_path / "merged.h5")
    assert (done.rows, done.failed, done.missing) == (len(wanted), whole.failed, [])
    assert by_id(tmp_path / "merged.h5") == wanted
    with open_cache(tmp_path / "whole.h5") as one, open_cache(tmp_path / "merged.h5") as all_of:
        assert all_of.classes == one.classes
        assert all_of.failed == one.failed
        assert (all_of.y is None) == (one.y is None)
        for name, values in one.columns.items():
            assert all_of.columns[name].dtype == values.dtype, name
        assert all_of.verify().ok
        assert "shard" not in all_of.provenance
    again = extract(source, tmp_path / "merged.h5", **tiny)
    assert (again.embedded, again.removed) == (0, 0)


def test_counts_of_the_shards_add_up(photos: Path, tmp_path: Path, tiny: Options) -> None:
    for kind in ("tars", "folder"):
        source = source_of(kind, photos, tmp_path)
        whole = load_manifest(source)
        parts = [load_manifest(source, Slice(k, 4)) for k in range(1, 5)]
        assert sum(part.ignored for part in parts) == whole.ignored > 0
        assert sum(map(len, parts)) == len(whole)
        refused = {name: why for part in parts for name, why in part.refused.items()}
        assert refused == whole.refused


@pytest.mark.parametrize("kind", ["tars", "parquets"])
def test_files_of_other_shards_are_not_opened(
    kind: str, photos: Path, tmp_path: Path, tiny: Options
) -> None:
    folder = source_of(kind, photos, tmp_path)
    files = sorted(path for path in folder.iterdir() if path.suffix in (".tar", ".parquet"))
    for k in (1, 2, 3):
        with opened() as paths:
            extract(folder, tmp_path / f"{k}.h5", **tiny, shard=f"{k}/3")
        there = {path for path in files if str(path) in paths}
        assert there == set(files[k - 1 :: 3])
        with open_cache(tmp_path / f"{k}.h5") as found, opened() as paths:
            read = read_again(str(folder), found.ids, found.paths, Slice(k, 3))
            assert read(len(found) - 1)
        assert {path for path in files if str(path) in paths} <= set(files[k - 1 :: 3])


@pytest.mark.parametrize("kind", ["folder", "csv"])
def test_images_of_other_shards_are_not_opened(
    kind: str, photos: Path, tmp_path: Path, tiny: Options
) -> None:
    source = source_of(kind, photos, tmp_path)
    seen: list[str] = []
    for k in (1, 2, 3):
        with opened() as paths:
            result = extract(source, tmp_path / f"{k}.h5", **tiny, shard=f"{k}/3")
        images = {path for path in paths if path.endswith(".png")}
        assert len(images) == result.embedded + result.failed - any(
            "gone" in name for name in result.failures
        )
        seen += images
    assert len(seen) == len(set(seen)) == len(list(photos.rglob("[!g]*.png")))


def test_a_link_without_its_file_does_not_make_tars_a_folder_of_images(
    photos: Path, tmp_path: Path
) -> None:
    folder = source_of("tars", photos, tmp_path)
    (folder / "gone.png").symlink_to(tmp_path / "nothing")
    for k in (1, 2, 3):
        assert {name.split("/")[0][-4:] for name in load_manifest(folder, Slice(k, 3)).ids} == {
            ".tar"
        }


def test_the_rule_is_the_same_everywhere() -> None:
    names = [f"class_{k % 7}/{k:05d}.jpg" for k in range(2000)]
    held = [[n for n in names if SliceCounter(Slice(k, 8)).takes(n)] for k in range(1, 9)]
    assert sorted(name for part in held for name in part) == sorted(names)
    assert min(map(len, held)) > 200
    # Of another process, machine or version, too: these stand in caches that exist.
    first = [next(k for k, part in enumerate(held, 1) if name in part) for name in names[:12]]
    assert first == [5, 4, 8, 1, 2, 1, 4, 1, 8, 4, 5, 7]
    one, other = SliceCounter(Slice(1, 3)), SliceCounter(Slice(2, 3))
    for name in names:
        one.takes(name)
    for name in reversed(names):
        other.takes(name)
    assert one.dealt is not None
    assert other.dealt is not None
    assert one.dealt.listing == other.dealt.listing
    other.takes("one more")
    assert other.dealt.listing != one.dealt.listing


def test_files_are_dealt_in_turn() -> None:
    names = [f"train-{k:03d}.tar" for k in range(17)]
    shares = [SliceCounter(Slice(k, 5)).takes_of(reversed(names)) for k in range(1, 6)]
    assert sorted(map(len, shares)) == [3, 3, 3, 4, 4]
    assert sorted(name for share in shares for name in share) == names
    grown = [SliceCounter(Slice(k, 5)).takes_of([*names, "train-017.tar"]) for k in range(1, 6)]
    assert all(before <= after for before, after in zip(shares, grown, strict=True))


def test_added_files_lose_nothing_and_repeat_nothing(
    photos: Path, tmp_path: Path, tiny: Options
) -> None:
    folder = source_of("tars", photos, tmp_path)
    paths = shards_of(folder, tmp_path / "parts", 3, tiny)
    held = [set(by_id(path)) for path in paths]
    save_pictures(tmp_path / "more", 3, first=500)
    write_tar(
        folder / "test-0.tar", [(f"{k}.png", d) for k, _, d in pictures_of(tmp_path / "more")]
    )
    extract(folder, paths[0], **tiny, shard="3/3")
    with pytest.raises(
        CacheError, match=r"names, and .* another listing, of \d: the source changed"
    ):
        merge(paths, tmp_path / "m.h5")
    for k, path in zip((3, 2, 1), paths, strict=True):
        result = extract(folder, path, **tiny, shard=(k, 3))
        if k != 3:
            assert result.removed == len(held[3 - k] - set(by_id(path))) > 0
    merge(paths, tmp_path / "m.h5")
    extract(folder, tmp_path / "whole.h5", **tiny)
    assert by_id(tmp_path / "m.h5") == by_id(tmp_path / "whole.h5")


def test_a_new_image_moves_no_other(photos: Path, tmp_path: Path, tiny: Options) -> None:
    paths = shards_of(photos, tmp_path / "parts", 3, tiny)
    before = [set(by_id(path)) for path in paths]
    save_pictures(photos, 4, first=5000)
    (photos / "cat" / "0000.png").unlink()
    for k, path, was in zip((3, 2, 1), paths, before, strict=True):
        extract(photos, path, **tiny, shard=(k, 3))
        now = set(by_id(path))
        assert now & set().union(*before) == was - {"cat/0000.png"}
    merge(paths, tmp_path / "m.h5")
    extract(photos, tmp_path / "whole.h5", **tiny)
    assert by_id(tmp_path / "m.h5") == by_id(tmp_path / "whole.h5")


def test_a_shard_with_nothing_to_do_still_learns_of_new_names(
    photos: Path, tmp_path: Path, tiny: Options
) -> None:
    paths = shards_of(photos, tmp_path / "parts", 2, tiny)
    own = next(k for k in range(99) if SliceCounter(Slice(1, 2)).takes(f"cat/new{k}.png"))
    picture(900).save(photos / "cat" / f"new{own}.png")
    extract(photos, paths[1], **tiny, shard="1/2")
    with pytest.raises(CacheError, match="the source changed in between"):
        merge(paths, tmp_path / "m.h5")
    result = extract(photos, paths[0], **tiny, shard="2/2")
    assert (result.embedded, result.removed) == (0, 0)
    assert merge(paths, tmp_path / "m.h5").rows == 13
    inode = paths[0].stat().st_ino
    extract(photos, paths[0], **tiny, shard="2/2")
    assert paths[0].stat().st_ino == inode


def test_a_cache_keeps_its_shard(photos: Path, tmp_path: Path, tiny: Options) -> None:
    cache = tmp_path / "c.h5"
    extract(photos, cache, **tiny, shard="1/2")
    before = cache.read_bytes()
    for shard in ("2/2", "1/3", "1/4"):
        for more in ({}, {"dry_run": True}):
            with pytest.raises(CacheMismatchError, match=f"shard 1/2, and a run of shard {shard}"):
                extract(photos, cache, **tiny, shard=shard, **more)
    assert cache.read_bytes() == before
    first = set(by_id(cache))
    grown = extract(photos, cache, **tiny)
    assert (grown.reused, grown.removed, len(by_id(cache))) == (len(first), 0, 12)
    with open_cache(cache) as found:
        assert "shard" not in found.provenance
    with pytest.raises(CacheMismatchError, match="the whole source, and a run of shard 1/2"):
        extract(photos, cache, **tiny, shard=(1, 2))
    assert len(by_id(cache)) == 12
    forced = extract(photos, cache, **tiny, shard=[1, 2], force=True)
    assert forced.embedded == len(first)
    assert set(by_id(cache)) == first
    assert extract(photos, tmp_path / "d.h5", **tiny, shard="1/1").shard is None


def test_unfinished_rows_keep_their_shard(photos: Path, tmp_path: Path, tiny: Options) -> None:
    cache = tmp_path / "c.h5"
    (photos / "zebra").mkdir()
    for k in range(8):
        (photos / "zebra" / f"{k}.png").write_bytes(b"no picture")
    with pytest.raises(ExtractError, match="on-error fail"):
        extract(photos, cache, **tiny, shard="1/2", on_error="fail", threads=1, batch_size=1)
    assert list(tmp_path.glob("c.h5.parts/*/*.h5"))
    with pytest.raises(CacheMismatchError, match=r"unfinished rows of shard 1/2, and .* 2/2"):
        extract(photos, cache, **tiny, shard="2/2")
    assert list(tmp_path.glob("c.h5.parts/*/*.h5"))
    result = extract(photos, cache, **tiny, shard="1/2")
    assert result.reused > 0
    assert not list(tmp_path.glob("c.h5.parts"))


def test_a_shard_of_nothing_is_a_cache_without_rows(
    photos: Path, tmp_path: Path, tiny: Options, tiny_flags: list[str], shell: Shell
) -> None:
    folder = source_of("tars", photos, tmp_path)
    paths = [tmp_path / f"{k}.h5" for k in range(1, 8)]
    for k, path in enumerate(paths[:6], 1):
        extract(folder, path, **tiny, shard=(k, 7))
    done = shell("extract", folder, paths[6], *tiny_flags, "--shard", "7/7", "--json")
    assert done.returncode == 0, done.stderr
    assert "shard 7/7 holds nothing" in done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    names = ("shard", "discovered", "embedded", "failed", "n_features")
    assert [found[name] for name in names] == ["7/7", 0, 0, 0, 48]
    with open_cache(paths[6]) as cache:
        assert (len(cache), cache.X.shape, list(cache.ids)) == (0, (0, 48), [])
        assert cache.verify().ok
        assert cache.info()["rows"] == 0
    extract(folder, tmp_path / "whole.h5", **tiny)
    merge(paths, tmp_path / "m.h5")
    assert by_id(tmp_path / "m.h5") == by_id(tmp_path / "whole.h5")
    with pytest.raises(CacheError, match=r"shard 7 of 7 is missing"):
        merge(paths[:6], tmp_path / "n.h5")
    with pytest.raises(CacheError, match="no rows in"):
        merge(paths[5:], tmp_path / "n.h5", partial=True)
    with pytest.raises(CacheError, match="a cache without rows is a file"):
        extract(folder, f"{tmp_path / 'f'}/", **tiny, shard="7/7")
    # Nothing of it is to be kept, whatever it was computed by.
    assert extract(folder, paths[6], **tiny, dtype="float16", shard="6/7").discovered == 0


def test_a_source_of_nothing_is_no_empty_shard(tmp_path: Path, tiny: Options) -> None:
    (tmp_path / "empty").mkdir()
    pd.DataFrame({"path": []}).to_csv(tmp_path / "t.csv", index=False)
    for source, words in (
        ("empty", "holds no images"),
        ("t.csv", "has no rows"),
        ("no", "no such"),
    ):
        with pytest.raises(SourceError, match=words):
            extract(tmp_path / source, tmp_path / "c.h5", **tiny, shard="1/2")


def test_a_shard_in_which_all_fails_replaces_nothing(
    photos: Path, tmp_path: Path, tiny: Options
) -> None:
    extract(photos, tmp_path / "c.h5", **tiny, shard="1/2")
    before = (tmp_path / "c.h5").read_bytes()
    for path in photos.rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(ExtractError, match="no image could be embedded"):
        extract(photos, tmp_path / "c.h5", **tiny, shard="1/2")
    assert (tmp_path / "c.h5").read_bytes() == before


@pytest.mark.parametrize("shard", ["0/4", "5/4", "a/b", "2", "", "1/2/3", "-1/4", "1/0", "1.0/2"])
def test_what_is_no_shard_is_one_line(
    shard: str, photos: Path, tmp_path: Path, tiny: Options
) -> None:
    with pytest.raises(FeatxError, match=r"^shard .*2/4 for the second of four") as caught:
        extract(photos, tmp_path / "c.h5", **tiny, shard=shard)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "c.h5").exists()


def test_no_shard_by_other_things() -> None:
    for given in ((1,), (1, 2, 3), (1, True), (0, 2), (3, 2), ("1", 2.0)):
        with pytest.raises(FeatxError, match=r"^shard "):
            Slice.of(given)  # type: ignore[arg-type]


def test_the_shell_and_a_dry_run_agree_with_the_run(
    photos: Path, tmp_path: Path, tiny: Options, tiny_flags: list[str], shell: Shell
) -> None:
    flags = [*tiny_flags, "--shard", "2/3", "--json"]
    dry = shell("extract", photos, tmp_path / "c.h5", *flags, "--dry-run")
    real = shell("extract", photos, tmp_path / "c.h5", *flags)
    first, second = (json.loads(done.stdout.splitlines()[-1]) for done in (dry, real))
    for name in ("shard", "discovered", "embedded", "reused", "removed", "fingerprint"):
        assert first[name] == second[name], name
    assert 0 < second["embedded"] < 12
    info = json.loads(shell("info", tmp_path / "c.h5", "--json").stdout)
    assert info["provenance"]["shard"]["held"] == [2]
    text = shell("extract", photos, tmp_path / "c.h5", *flags[:-1])
    assert "c.h5 (shard 2/3): nothing to embed" in text.stdout
    bad = shell("extract", photos, tmp_path / "x.h5", *tiny_flags, "--shard", "4/3")
    assert (bad.returncode, bad.stderr.count("\n")) == (1, 1)
    assert shell("predict", "m.featx", photos, "--out", "x.csv", "--shard", "1/2").returncode == 2


@pytest.mark.slow
def test_workers_do_a_shard(tmp_path: Path, tiny: Options) -> None:
    save_pictures(tmp_path / "photos", 300, suffix=".bmp")
    extract(tmp_path / "photos", tmp_path / "one.h5", **tiny, shard="2/2")
    result = extract(tmp_path / "photos", tmp_path / "two.h5", **tiny, shard="2/2", workers=2)
    assert result.embedded == result.discovered > 100
    assert by_id(tmp_path / "two.h5") == by_id(tmp_path / "one.h5")


def test_a_model_takes_no_shard(photos: Path, tmp_path: Path, tiny: Options) -> None:
    extract(photos, tmp_path / "c.h5", **tiny)
    model = featx.fit(tmp_path / "c.h5", "ridge", folds=2).model
    with pytest.raises(FeatxError, match="takes no shard; give each run a source of its own"):
        same_options(model, {"shard": (1, 2)})


def test_a_precision_that_each_shard_decides_is_said(
    photos: Path,
    tmp_path: Path,
    tiny: Options,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("featx.runtime.plan.supported_precisions", lambda _: ("bf16", "fp32"))
    extract(photos, tmp_path / "c.h5", **{**tiny, "precision": "auto"}, compile="off", shard="1/2")
    assert "pass --precision" in caplog.text
    caplog.clear()
    extract(photos, tmp_path / "d.h5", **{**tiny, "precision": "auto"}, compile="off")
    extract(photos, tmp_path / "e.h5", **{**tiny, "precision": "bf16"}, compile="off", shard="1/2")
    assert "pass --precision" not in caplog.text


COLUMNS: dict[str, list[Any]] = {
    "whole": [1, 2, 3, 4, 5, 6, 7],
    "gaps": [1, 2, 3, 4, "", 6, 7],
    "late fraction": ["1", "2", "3", "4", "5", "6", "7.5"],
    "late word": ["01", "02", "03", "04", "05", "06", "x"],
    "truth": ["True", "False"] * 3 + ["True"],
    "truth with gaps": ["True", "False", "True", "", "true", "TRUE", "False"],
    "truth and numbers": ["True", "False", "True", "1", "0", "1", "0"],
    "nothing": [""] * 7,
    "nothing at first": ["", "", "", "", "", "", "word"],
    "huge": [1, 2, 3, 4, 5, 6, 2**63 + 5],
    "huge and negative": [-1, 2, 3, 4, 5, 6, 2**63 + 5],
    "NA": ["NA", "None", "nan", "x", "", "1", "2"],
}


@pytest.mark.parametrize("name", COLUMNS)
def test_blocks_of_a_table_are_letters(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_BLOCK_ROWS", 3)
    values = COLUMNS[name]
    path = tmp_path / "t.csv"
    frame = pd.DataFrame({"path": [f"{k}.png" for k in range(7)], "label": values, "more": values})
    frame.to_csv(path, index=False)
    blocks = tables.read_table(str(path), SliceCounter()).frame
    written = [str(value) for value in values]
    assert table_labels("t", blocks) == [word or None for word in written]
    assert list(table_columns("t", blocks)["more"]) == written
    parts = [tables.read_table(str(path), SliceCounter(Slice(k, 3))).frame for k in (1, 2, 3)]
    assert sorted(row for part in parts for row in part.index) == list(range(7))


def test_rows_that_cannot_be_are_named_by_their_number_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_BLOCK_ROWS", 3)
    path = tmp_path / "t.csv"
    names = [f"{k}.png" for k in range(9)]

    def said(**columns: list[str]) -> set[str]:
        pd.DataFrame({"path": names, **columns}).to_csv(path, index=False)
        found = set()
        for k in (1, 2):
            try:
                load_manifest(path, Slice(k, 2))
            except SourceError as error:
                found.add(str(error).split(": ", 1)[1].split("; ")[0])
        return found

    assert said(split=["train"] * 7 + ["trian"] * 2) <= {
        "split 'trian' in row 8",
        "split 'trian' in row 9",
    }
    assert said(id=[*"abcdefgh", ""]) == {"column `id` is empty in row 9 (1 such rows)"}
    assert said(id=[*"abcdefgh", "a"]) == {"id 'a' stands twice"}
    assert said() == set()


def test_the_image_of_a_row_is_read_from_its_shard_alone(
    photos: Path, tmp_path: Path, tiny: Options
) -> None:
    from featx.fitting.publishing import extract_command
    from featx.model.references import image_reader

    folder = source_of("tars", photos, tmp_path)
    extract(folder, tmp_path / "c.h5", **tiny, shard="2/3")
    with open_cache(tmp_path / "c.h5") as cache:
        with opened() as paths:
            data = image_reader(cache)(0)
        assert {Path(path).name for path in paths if path.endswith(".tar")} == {
            cache.ids[0].split("/")[0]
        }
        assert data in {picture for _, _, picture in pictures_of(photos)}
        assert extract_command(cache).endswith("--shard 2/3")


def test_built_in_sets_are_dealt_too() -> None:
    whole = load_manifest("digits")
    parts: list[Manifest] = [load_manifest("digits", Slice(k, 2)) for k in (1, 2)]
    assert sorted([*parts[0].ids, *parts[1].ids]) == list(whole.ids)
    place = list(whole.ids).index(parts[1].ids[5])
    assert parts[1].read(5) == whole.read(place)
    assert parts[1].labels is not None
    assert whole.labels is not None
    assert parts[1].labels[5] == whole.labels[place]
