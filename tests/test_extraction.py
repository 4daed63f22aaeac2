"""The main job: nothing lost, nothing doubled, nothing misplaced, nothing replaced in silence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Shell, picture, save_pictures, slow_network
from PIL import Image
from test_cache import flip

import featx
from featx.cache import open_cache
from featx.cache.staging import parts_folder
from featx.cli.listings import extract_text
from featx.errors import (
    CacheError,
    CacheFormatError,
    CacheMismatchError,
    DeviceError,
    ExtractError,
    FeatxError,
)
from featx.extraction.extraction import extract
from featx.images import draw
from featx.preprocess import Preprocess

Options = dict[str, Any]


def expected_row(path: Path) -> np.ndarray:
    """The tiny network by hand: normalise, then average over a grid of 4 x 4."""
    pre = Preprocess().override(input_size=32)
    out = np.zeros(pre.out_shape(), np.uint8)
    draw(path.read_bytes(), pre, out)
    x = (out[0] / np.float32(255) - np.float32(pre.mean)) / np.float32(pre.std)
    return x.reshape(4, 8, 4, 8, 3).mean(axis=(1, 3)).transpose(2, 0, 1).ravel()


def assert_right(cache: Path, folder: Path, n: int | None = None) -> None:
    """Every row is the vector of the image that its id names."""
    with open_cache(cache) as found:
        assert found.verify().ok
        X = np.asarray(found.X)
        assert n is None or len(X) == n
        for row, name in zip(X, found.ids, strict=True):
            np.testing.assert_allclose(row, expected_row(folder / name), atol=2e-5)


def leftovers(cache: Path) -> list[str]:
    return sorted(
        p.name for p in cache.parent.iterdir() if p.name != cache.name and cache.name in p.name
    )


def test_rows_are_the_images_they_name(photos: Path, tmp_path: Path, tiny: Options) -> None:
    cache = tmp_path / "c.h5"
    result = extract(photos, cache, **tiny)
    assert (result.discovered, result.embedded, result.reused, result.failed) == (12, 12, 0, 0)
    assert result.n_features == 48
    assert result.precision == "fp32"
    assert_right(cache, photos, 12)
    with featx.open_cache(cache) as found:
        assert found.ids == sorted(found.ids)
        assert found.labels == [name.split("/")[0] for name in found.ids]
    assert leftovers(cache) == []


@pytest.mark.parametrize(("batch_size", "threads"), [(1, 1), (5, 2), (32, 3), (7, 8)])
def test_batch_size_and_threads_do_not_change_features(
    photos: Path, tmp_path: Path, tiny: Options, batch_size: int, threads: int
) -> None:
    cache = tmp_path / "c.h5"
    extract(photos, cache, **tiny, batch_size=batch_size, threads=threads)
    assert_right(cache, photos, 12)


def test_nothing_to_do_runs_nothing_and_rewrites_nothing(
    photos: Path, tmp_path: Path, tiny: Options
) -> None:
    cache = tmp_path / "c.h5"
    extract(photos, cache, **tiny)
    before = cache.stat()
    again = extract(photos, cache, **tiny)
    assert (again.embedded, again.reused) == (0, 12)
    assert again.shares["forward"] == 0
    assert cache.stat().st_ino == before.st_ino


def test_sync_embeds_only_what_is_new_or_changed(tmp_path: Path, tiny: Options) -> None:
    folder, cache = tmp_path / "photos", tmp_path / "c.h5"
    paths = save_pictures(folder, 120)
    extract(folder, cache, **tiny)
    save_pictures(folder, 10, first=500)
    for path in paths[:5]:
        picture(9000 + int(path.stem)).save(path)
    for path in paths[5:10]:
        path.unlink()
    for path in paths[10:13]:
        path.rename(path.with_name(f"renamed-{path.name}"))
    planned = extract(folder, cache, **tiny, dry_run=True)
    assert (planned.embedded, planned.reused, planned.removed) == (15, 110, 5)
    result = extract(folder, cache, **tiny)
    assert (result.embedded, result.reused, result.removed) == (15, 110, 5)
    assert vars(result.difference) == {
        "new": 10, "changed": 5, "renamed": 3, "unchanged": 107, "removed": 5, "damaged": 0,
    }  # fmt: skip
    assert_right(cache, folder, 125)


def test_dry_run_writes_nothing(photos: Path, tmp_path: Path, tiny: Options) -> None:
    cache = tmp_path / "c.h5"
    result = extract(photos, cache, **tiny, dry_run=True)
    assert (result.embedded, result.n_features) == (12, 48)
    assert list(tmp_path.iterdir()) == [photos]


def test_same_content_under_a_young_time_is_still_seen(
    photos: Path, tmp_path: Path, tiny: Options
) -> None:
    """A file rewritten within its time's resolution, size kept, must not pass as untouched."""
    cache, path = tmp_path / "c.h5", photos / "cat" / "0000.png"
    picture(1).save(path, "BMP")
    stamp = path.stat()
    extract(photos, cache, **tiny)
    picture(2).save(path, "BMP")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert path.stat().st_size == stamp.st_size
    assert extract(photos, cache, **tiny).embedded == 1
    assert_right(cache, photos)


def test_old_stamps_spare_the_reading(photos: Path, tmp_path: Path, tiny: Options) -> None:
    cache = tmp_path / "c.h5"
    for path in photos.rglob("*.png"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    extract(photos, cache, **tiny)
    again = extract(photos, cache, **tiny)
    assert again.reused == 12
    assert again.shares["read"] == 0
    os.utime(photos / "cat" / "0000.png")
    assert extract(photos, cache, **tiny).reused == 12


def test_new_labels_embed_nothing(tmp_path: Path, tiny: Options) -> None:
    folder, cache, table = tmp_path / "photos", tmp_path / "c.h5", tmp_path / "t.csv"
    paths = save_pictures(folder, 4)
    names = [p.relative_to(tmp_path).as_posix() for p in paths]
    table.write_text("path,label\n" + "".join(f"{n},a\n" for n in names))
    extract(table, cache, **tiny)
    table.write_text("path,label,group\n" + "".join(f"{n},b,g\n" for n in names))
    result = extract(table, cache, **tiny)
    assert (result.embedded, result.reused) == (0, 4)
    with open_cache(cache) as found:
        assert found.classes == ["b"]
        assert list(found.columns["group"]) == ["g"] * 4


def test_bad_images_are_recorded_and_never_replaced(
    photos: Path, tmp_path: Path, tiny: Options
) -> None:
    cache = tmp_path / "c.h5"
    (photos / "cat" / "empty.png").write_bytes(b"")
    (photos / "cat" / "text.jpg").write_text("no image")
    whole = (photos / "cat" / "0000.png").read_bytes()
    (photos / "dog" / "half.png").write_bytes(whole[: len(whole) // 2])
    (photos / "dog" / "wrong.jpg").write_bytes(whole)
    (photos / "dog" / "loop.png").symlink_to(photos / "dog" / "loop.png")
    result = extract(photos, cache, **tiny)
    assert result.discovered == 17
    assert (result.embedded, result.failed) == (13, 4)
    with open_cache(cache) as found:
        assert set(found.failed) == {
            "cat/empty.png", "cat/text.jpg", "dog/half.png", "dog/loop.png",
        }  # fmt: skip
        assert found.failed["cat/empty.png"] == "the file is empty"
        assert found.failed["cat/text.jpg"] == "not an image of a known format"
    assert_right(cache, photos, 13)
    again = extract(photos, cache, **tiny)
    assert (again.embedded, again.reused, again.failed) == (0, 13, 4)


def test_limits_on_failures(photos: Path, tmp_path: Path, tiny: Options) -> None:
    for k in range(3):
        (photos / "cat" / f"bad{k}.png").write_bytes(b"x")
    with pytest.raises(ExtractError, match=r"bad\d\.png: .*--on-error fail"):
        extract(photos, tmp_path / "c.h5", **tiny, on_error="fail")
    with pytest.raises(ExtractError, match="more than 2 images failed"):
        extract(photos, tmp_path / "c.h5", **tiny, max_failed=2)
    assert extract(photos, tmp_path / "c.h5", **tiny, max_failed=3).failed == 3


def test_nothing_but_bad_images(tmp_path: Path, tiny: Options) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"")
    with pytest.raises(ExtractError, match=r"no image could be embedded: 1 of 1 failed.*empty"):
        extract(folder, tmp_path / "c.h5", **tiny)
    assert not (tmp_path / "c.h5").exists()


def test_vectors_that_are_not_finite_stop_or_fail(
    photos: Path, tmp_path: Path, tiny: Options
) -> None:
    module = tmp_path / "bad.py"
    text = Path(str(tiny["backbone"]).split(":")[1]).read_text()
    module.write_text(text.replace("x * self.scale", "x / 0"))
    bad = {**tiny, "backbone": f"file:{module}:build"}
    with pytest.raises(ExtractError, match="NaN or infinite vectors for a whole batch"):
        extract(photos, tmp_path / "c.h5", **bad)
    module.write_text(
        text.replace("x * self.scale", "x / (x.amin((1, 2, 3), True) > 2).logical_not()")
    )
    Image.new("RGB", (40, 40), "white").save(photos / "cat" / "white.png")
    result = extract(photos, tmp_path / "c.h5", **bad)
    assert list(result.failures) == ["cat/white.png"]
    assert "NaN or infinite" in result.failures["cat/white.png"]
    assert result.embedded == 12


def test_another_setting_is_named_and_refused(photos: Path, tmp_path: Path, tiny: Options) -> None:
    cache = tmp_path / "c.h5"
    extract(photos, cache, **tiny)
    before = cache.read_bytes()
    with pytest.raises(
        CacheMismatchError, match=r"preprocess.input_size \[32, 32\] -> \[48, 48\].*--force"
    ):
        extract(photos, cache, **{**tiny, "input_size": 48})
    with pytest.raises(CacheMismatchError, match=r"decode\.mode exact -> fast"):
        extract(photos, cache, **tiny, decode="fast")
    assert cache.read_bytes() == before
    assert extract(photos, cache, **{**tiny, "input_size": 48}, force=True).embedded == 12


def test_auto_takes_what_the_cache_has(photos: Path, tmp_path: Path, tiny: Options) -> None:
    cache = tmp_path / "c.h5"
    extract(photos, cache, **tiny, decode="fast")
    again = extract(photos, cache, **{**tiny, "precision": "auto"})
    assert (again.reused, again.precision) == (12, "fp32")


def test_damaged_rows_alone_are_computed_again(photos: Path, tmp_path: Path, tiny: Options) -> None:
    import h5py

    cache = tmp_path / "c.h5"
    extract(photos, cache, **tiny)
    with h5py.File(cache, "r+") as file:
        file["features"][[2, 7]] = 0
    result = extract(photos, cache, **tiny)
    assert (result.embedded, result.reused, result.difference.damaged) == (2, 10, 2)
    assert_right(cache, photos, 12)


@pytest.mark.parametrize("name", ["labels", "classes", "paths", "id_index"])
def test_damage_outside_the_rows_is_mended_without_embedding(
    photos: Path, tmp_path: Path, tiny: Options, name: str
) -> None:
    cache = tmp_path / "c.h5"
    extract(photos, cache, **tiny)
    flip(cache, name)
    with open_cache(cache) as found:
        assert found.verify().problems == (f"/{name} fails its checksum",)
    assert extract(photos, cache, **tiny).reused == 12
    assert_right(cache, photos, 12)


def test_a_file_that_is_no_cache_is_not_replaced(
    photos: Path, tmp_path: Path, tiny: Options
) -> None:
    cache = tmp_path / "c.h5"
    cache.write_bytes(b"my thesis")
    with pytest.raises(CacheFormatError, match=r"not a featx cache.*--force"):
        extract(photos, cache, **tiny)
    assert cache.read_bytes() == b"my thesis"
    extract(photos, cache, **tiny, force=True)
    assert_right(cache, photos, 12)


def test_targets_are_checked_before_the_network_is_loaded(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="does not exist"):
        extract(photos, tmp_path / "gone" / "c.h5", backbone="no such network")
    with pytest.raises(CacheError, match="is a folder"):
        extract(photos, tmp_path, backbone="no such network")


def test_options_are_checked(photos: Path, tmp_path: Path, tiny: Options) -> None:
    with pytest.raises(FeatxError, match="no option 'bacbone'; did you mean backbone"):
        extract(photos, tmp_path / "c.h5", bacbone="resnet18")
    with pytest.raises(FeatxError, match="dtype must be one of float32, float16"):
        extract(photos, tmp_path / "c.h5", dtype="float64")
    if not __import__("torch").cuda.is_available():
        with pytest.raises(DeviceError, match="cuda was asked for"):
            extract(photos, tmp_path / "c.h5", **tiny, device="cuda")


def test_views_merge_as_they_say(photos: Path, tmp_path: Path, tiny: Options) -> None:
    caches = {}
    for merge in ("mean", "concat", "apart"):
        cache = tmp_path / f"{merge}.h5"
        extract(photos, cache, **tiny, views="hflip", view_merge=merge, batch_size=7)
        with open_cache(cache) as found:
            caches[merge] = [np.asarray(found.tap(name)) for name in found.taps]
            assert len(found.taps) == (2 if merge == "apart" else 1)
    plain, flipped = caches["apart"]
    np.testing.assert_allclose(caches["mean"][0], (plain + flipped) / 2, atol=1e-6)
    np.testing.assert_array_equal(caches["concat"][0], np.hstack([plain, flipped]))
    grid = plain.reshape(-1, 3, 4, 4)
    np.testing.assert_allclose(flipped.reshape(-1, 3, 4, 4), grid[..., ::-1], atol=1e-5)


def test_float16_is_stored_as_asked(photos: Path, tmp_path: Path, tiny: Options) -> None:
    extract(photos, tmp_path / "c.h5", **tiny, dtype="float16")
    with open_cache(tmp_path / "c.h5") as found:
        assert found.X.dtype == np.float16
        assert found.verify().ok


def test_the_built_in_digits(tmp_path: Path, tiny: Options) -> None:
    result = extract("digits", tmp_path / "c.h5", **tiny)
    assert result.embedded == 1797
    assert extract("digits", tmp_path / "c.h5", **tiny).reused == 1797


def start(photos: Path, cache: Path, flags: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "featx", "extract", photos, cache, *flags, "--json"]
    return subprocess.Popen(
        [str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.01)


@pytest.mark.parametrize(
    "signal_name",
    [
        "SIGTERM",  # ends as SIGINT does, by a handler that SIGINT has anyway
        pytest.param("SIGINT", marks=pytest.mark.slow),
        pytest.param("SIGKILL", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, signal_name: str) -> None:
    import signal

    folder, cache, n = tmp_path / "photos", tmp_path / "c.h5", 160
    save_pictures(folder, n, suffix=".bmp")
    # Shards of 16 rows, and five seconds of sleep in all: the signal comes well before the end.
    flags = slow_network(tmp_path, seconds=0.25, shard_rows=16)
    process = start(folder, cache, [*flags, "--threads", "1", "--batch-size", "8"])
    wait_for(lambda: any(parts_folder(cache).rglob("*.h5")) or process.poll() is not None)
    process.send_signal(getattr(signal, signal_name))
    stopped = time.monotonic()
    _, log = process.communicate()
    if signal_name != "SIGKILL":
        assert process.returncode == 130
        assert "are done and kept" in log
        assert time.monotonic() - stopped < 60
    assert not cache.exists()
    again = start(folder, cache, [*flags, "--batch-size", "80"])  # two passes, and their sleep
    result = json.loads(again.communicate()[0].splitlines()[-1])
    assert 16 <= result["reused"] < n
    assert result["embedded"] + result["reused"] == n
    assert leftovers(cache) == []
    assert_right(cache, folder, n)


def test_two_writers(photos: Path, tmp_path: Path, tiny: Options, tiny_flags: list[str]) -> None:
    from featx.cache.lock import WriterLock

    cache = tmp_path / "c.h5"
    with WriterLock(cache):
        process = start(photos, cache, tiny_flags)
        _, log = process.communicate()
    assert process.returncode == 1
    assert f"being written by process {os.getpid()}" in log
    assert "Traceback" not in log


def test_shell_and_library_agree(
    photos: Path,
    tmp_path: Path,
    tiny: Options,
    tiny_flags: list[str],
    shell: Shell,
) -> None:
    (photos / "cat" / "bad.png").write_bytes(b"")
    done = shell("extract", photos, tmp_path / "s.h5", *tiny_flags, "--json")
    assert done.returncode == 3
    assert "failed: cat/bad.png: the file is empty" in done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    keys = (
        "cache fingerprint discovered embedded reused failed removed ignored n_features taps "
        "device precision compiled images_per_second seconds shares"
    ).split()
    assert set(keys) <= set(found)
    assert set(found["shares"]) == {"read", "decode", "forward", "write"}
    assert set(found["seconds"]) == {"total", "load", "compile", "run"}
    result = extract(photos, tmp_path / "l.h5", **tiny)
    assert result.fingerprint == found["fingerprint"]
    with open_cache(tmp_path / "s.h5") as a, open_cache(tmp_path / "l.h5") as b:
        np.testing.assert_array_equal(np.asarray(a.X), np.asarray(b.X))
    info = json.loads(shell("info", tmp_path / "s.h5", "--json").stdout)
    assert info["rows"] == 12
    assert info["failed"] == 1
    verified = shell("verify", tmp_path / "s.h5", "--json")
    assert json.loads(verified.stdout) == {"ok": True, "rows": 12, "problems": []}
    (tmp_path / "s.h5").write_bytes(b"gone")
    assert shell("verify", tmp_path / "s.h5").returncode == 1


def test_every_tap_is_printed_with_its_width(photos: Path, tmp_path: Path, tiny: Options) -> None:
    one = extract(photos, tmp_path / "one.h5", **tiny)
    assert "; 48 features\n" in extract_text(one.to_dict())
    both = {**tiny, "layers": ("grid", "flatten")}
    two = extract(photos, tmp_path / "two.h5", **both)
    assert "; features: grid 3, flatten 48\n" in extract_text(two.to_dict())


def test_errors_are_one_line_and_status_one(photos: Path, tmp_path: Path, shell: Shell) -> None:
    cache = tmp_path / "c.h5"
    for arguments, message in (
        (("extract", tmp_path / "gone", cache), "no such folder"),
        (("extract", photos, cache, "--backbone", "resnet1"), "did you mean"),
        (("extract", photos, tmp_path / "no" / "c.h5"), "does not exist"),
        (("info", cache), "no such cache"),
    ):
        done = shell(*arguments)
        assert done.returncode == 1, done
        assert message in done.stderr
        # On a busy machine the wait for the network is said, too.
        lines = [line for line in done.stderr.splitlines() if not line.endswith("so far")]
        assert len(lines) == 1, done.stderr
    assert shell("extract").returncode == 2
    assert shell("extract", photos, cache, "--no-such-flag").returncode == 2


def test_one_picture_is_a_source_and_takes_no_other_rows_away(
    photos: Path, tmp_path: Path, tiny: Options
) -> None:
    one = photos / "cat" / "0000.png"
    extract(photos, tmp_path / "all.h5", **tiny)
    done = extract(one, tmp_path / "one.h5", **tiny)
    assert (done.discovered, done.embedded) == (1, 1)
    with open_cache(tmp_path / "one.h5") as a, open_cache(tmp_path / "all.h5") as b:
        assert list(a.ids) == [str(one)]
        np.testing.assert_array_equal(np.asarray(a.X)[0], np.asarray(b.X)[b.row("cat/0000.png")])
    assert extract(str(one), tmp_path / "one.h5", **tiny).embedded == 0
    before = (tmp_path / "all.h5").read_bytes()
    with pytest.raises(CacheMismatchError, match=r"is one picture, and .* holds 12 rows of others"):
        extract(one, tmp_path / "all.h5", **tiny)
    with pytest.raises(CacheMismatchError, match="holds 12 rows of others"):
        extract(one, tmp_path / "all.h5", **tiny, dry_run=True)
    with pytest.raises(CacheMismatchError, match="holds 1 rows of others"):
        extract(photos / "dog" / "0001.png", tmp_path / "one.h5", **tiny)
    assert (tmp_path / "all.h5").read_bytes() == before
    assert extract(one, tmp_path / "all.h5", **tiny, force=True).discovered == 1


def test_disk_full_keeps_what_is_done(
    photos: Path, tmp_path: Path, tiny_flags: list[str], tiny: Options
) -> None:
    cache = tmp_path / "c.h5"
    extract(photos, cache, **tiny)
    before = cache.read_bytes()
    save_pictures(photos, 200, first=100)
    code = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000));"
        "sys.argv[0] = 'featx'; runpy.run_module('featx', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, "extract", str(photos), str(cache), *tiny_flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "no space to write" in done.stderr
    assert "needed" in done.stderr
    assert "Traceback" not in done.stderr
    assert cache.read_bytes() == before
    assert extract(photos, cache, **tiny).discovered == 212
    assert_right(cache, photos, 212)
    assert leftovers(cache) == []


def test_a_file_that_vanishes_during_the_run(tmp_path: Path, tiny: Options) -> None:
    folder = tmp_path / "photos"
    paths = save_pictures(folder, 3)
    lost = [*map(str, paths), str(tmp_path / "gone.png")]
    result = extract(lost, tmp_path / "c.h5", **tiny)
    assert result.failures == {lost[3]: "file not found"}
    shutil.rmtree(folder)
    with pytest.raises(ExtractError, match="no image could be embedded"):
        extract(lost, tmp_path / "c.h5", **tiny)
    with open_cache(tmp_path / "c.h5") as found:
        assert len(found) == 3
