from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_runtime import SHAPE, Cancelling, TinyReader, expected, needs_bf16, pictures, plan
from torch import Tensor

from featx.files import cache_home
from featx.runtime import Runner
from featx.runtime.compiling import count_layers, find_compiler, repays, slowness
from featx.runtime.native import is_sound, keep, package_path

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")
KEY = "tiny reader"
BATCH = (4, *SHAPE)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the package of the tiny reader, compiled once for this module."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATX_CACHE_HOME", str(home))
        with Runner(TinyReader(), plan(compile="on"), SHAPE, KEY) as runner:
            runner.prepare(pictures(4), 4)
            assert runner.compiled
            assert runner.compile_seconds > 0
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, to spoil, on a machine that has lost its compiler."""
    (source,) = (made / "packages").iterdir()
    monkeypatch.setenv("FEATX_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    target = tmp_path / "packages" / source.name
    target.parent.mkdir()
    target.write_bytes(source.read_bytes())
    target.chmod(0o600)
    return tmp_path


def the_package(home: Path) -> Path:
    (package,) = (home / "packages").iterdir()
    return package


@pytest.mark.slow
def test_a_package_is_private_and_whole(home: Path, made: Path) -> None:
    assert the_package(made).stat().st_mode & 0o777 == 0o600
    assert the_package(made).parent.stat().st_mode & 0o777 == 0o700
    assert the_package(home) == package_path(KEY, plan(), BATCH)
    assert is_sound(the_package(home))


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 3, 4, 9])
def test_the_second_run_needs_no_compiler_and_any_number_of_images(home: Path, n: int) -> None:
    images = pictures(9)[:n]
    with Runner(TinyReader(), plan(compile="auto"), SHAPE, KEY) as runner:
        runner.prepare(images, 1)
        assert runner.compiled
        found = runner(images)
    for a, b in zip(expected(TinyReader(), images), found, strict=True):
        assert b.dtype == np.float32
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_threads_share_a_package(home: Path) -> None:
    images = pictures(64)
    rows: dict[int, np.ndarray] = {}
    with Runner(TinyReader(), plan(compile="auto"), SHAPE, KEY) as runner:
        runner.prepare(images[:4], 1)

        def work(first: int) -> None:
            for i in range(first, 64, 12):
                rows[i] = runner(images[i : i + 4])[1]

        threads = [threading.Thread(target=work, args=(i,)) for i in (0, 4, 8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = np.concatenate([rows[i] for i in sorted(rows)])
    np.testing.assert_allclose(found, expected(TinyReader(), images)[1], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_package_is_refused(home: Path, damage: str, caplog) -> None:
    package = the_package(home)
    whole = package.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    package.write_bytes({"cut": whole[:middle], "flip": flipped, "empty": b""}[damage])
    with Runner(TinyReader(), plan(compile="auto"), SHAPE, KEY) as runner:
        runner.prepare(pictures(4), 1)
        assert not runner.compiled
    assert "damaged" in caplog.text


@pytest.mark.slow
def test_a_package_that_others_may_write_is_refused(home: Path, caplog) -> None:
    the_package(home).chmod(0o666)
    with Runner(TinyReader(), plan(compile="auto"), SHAPE, KEY) as runner:
        runner.prepare(pictures(4), 1)
        assert not runner.compiled
    assert "not this user's own" in caplog.text


class Shifted(TinyReader):
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(tap.flip(1) for tap in super().forward(images))


@pytest.mark.slow
def test_a_package_that_disagrees_is_dropped(home: Path, caplog) -> None:
    images = pictures(4)
    with Runner(Shifted(), plan(compile="auto"), SHAPE, KEY) as runner:
        runner.prepare(images, 1)
        assert not runner.compiled
        np.testing.assert_allclose(runner(images)[1], expected(Shifted(), images)[1], rtol=1e-5)
    assert "compiled fp32 features differ from fp32" in caplog.text
    assert not list((home / "packages").iterdir())


@pytest.mark.slow
def test_without_a_compiler_it_runs_uncompiled_and_says_so(home: Path, caplog) -> None:
    with Runner(TinyReader(), plan(compile="on"), SHAPE, "another") as runner:
        runner.prepare(pictures(4), 4)
        assert not runner.compiled
    assert caplog.text.count("no C++ compiler") == 1


@pytest.mark.slow
def test_a_failing_compiler_is_survived(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.setenv("CXX", "false")
    with Runner(TinyReader(), plan(compile="on"), SHAPE, "another") as runner:
        runner.prepare(pictures(4), 4)
        assert not runner.compiled
        assert runner(pictures(2))[0].shape == (2, 16)
    assert caplog.text.count("compiling failed") == 1


@pytest.mark.slow
def test_off_looks_at_no_package(home: Path) -> None:
    with Runner(TinyReader(), plan(compile="off"), SHAPE, KEY) as runner:
        runner.prepare(pictures(4), 10**9)
        assert not runner.compiled


def test_each_part_of_the_key_names_another_package() -> None:
    names = {
        package_path(KEY, plan(), BATCH),
        package_path("other", plan(), BATCH),
        package_path(KEY, plan(), (8, *SHAPE)),
        package_path(KEY, replace(plan(), precision="bf16"), BATCH),
        package_path(KEY, replace(plan(), channels_last=False), BATCH),
    }
    assert len(names) == 5
    assert package_path(KEY, plan(threads=5), BATCH) in names


def test_two_that_publish_at_once_leave_one_whole_package(tmp_path: Path) -> None:
    sources = []
    for k in range(4):
        sources.append(tmp_path / f"{k}.so")
        sources[k].write_bytes(bytes([k]) * 300_000)
    target = tmp_path / "packages" / "key.so"
    threads = [threading.Thread(target=keep, args=(s, target)) for s in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert is_sound(target)
    assert [p.name for p in target.parent.iterdir()] == ["key.so"]


def test_the_cache_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATX_CACHE_HOME", "own")
    monkeypatch.setenv("XDG_CACHE_HOME", "common")
    assert cache_home() == Path("own")
    monkeypatch.delenv("FEATX_CACHE_HOME")
    assert cache_home() == Path("common/featx")


def test_compiling_is_for_runs_that_repay_it() -> None:
    assert count_layers(TinyReader()) == 2
    assert not repays(100, 0.01, 2, 50)
    assert repays(100_000, 0.01, 2, 50)
    assert not repays(100_000, 0.01, 2000, 50)
    assert not repays(100_000, 0.01, 2, 5000)


def test_compiling_repays_later_where_it_takes_longer() -> None:
    assert repays(2624, 0.05, 2, 50, slowness=1.0)
    assert not repays(2624, 0.05, 2, 50, slowness=4.0)
    assert slowness() > 0


@pytest.mark.slow
@needs_bf16
def test_bf16_that_was_asked_for_is_compiled_and_its_package_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.setenv("FEATX_CACHE_HOME", str(tmp_path))
    images = pictures(4)
    asked = plan(precision="bf16", compile="on")
    found = []
    for _ in range(2):
        with Runner(Cancelling(), asked, SHAPE, "cancelling") as runner:
            runner.prepare(images, 4)
            assert runner.compiled
            assert runner.precision == "bf16"
            found.append(runner(images)[0])
        monkeypatch.setenv("CXX", "no-such-compiler")
    np.testing.assert_array_equal(*found)
    assert caplog.text.count("going on with bf16 as asked") == 2
    assert the_package(tmp_path).exists()
