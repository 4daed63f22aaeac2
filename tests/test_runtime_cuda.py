"""What a card computes; run by `make test-gpu` on a machine that has one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_runtime import SHAPE, TinyReader, expected, pictures
from test_runtime_card import Overflowing

import featx
from featx.runtime import Runner, plan_runtime
from featx.runtime.plan import RuntimePlan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def on_card(**changes: object) -> RuntimePlan:
    asked = {"device": "cuda", "precision": "fp32", "batch_size": 8, "compile": "off"}
    return plan_runtime(**{**asked, **changes})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Smooth pictures of many sizes, as JPEGs."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(200):
        pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        size = (int(rng.integers(200, 500)), int(rng.integers(200, 500)))
        image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        image.save(folder / f"{k:03d}.jpg", quality=92)
    return folder


Rows = Callable[..., tuple[dict[str, np.ndarray], "featx.ExtractResult"]]


@pytest.fixture
def rows(photos: Path, tmp_path: Path) -> Rows:
    """Rows by id of the photos, as a run with these options gives them."""

    def run(**options: object):
        cache = tmp_path / f"{len(list(tmp_path.glob('*.h5')))}.h5"
        asked = {"backbone": "efficientnet_lite0", "progress": False, "compile": "off"} | options
        result = featx.extract(photos, cache, **asked)
        with featx.open_cache(cache) as found:
            tap = found.tap(next(iter(found.taps)))[:]
            return dict(zip(found.ids, tap, strict=True)), result

    return run


def apart(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """Largest relative error of a row."""
    assert a.keys() == b.keys()
    return max(float(np.linalg.norm(a[k] - b[k]) / np.linalg.norm(a[k])) for k in a)


def cosine(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    assert a.keys() == b.keys()
    norms = {k: np.linalg.norm(a[k]) * np.linalg.norm(b[k]) for k in a}
    return min(float(a[k] @ b[k] / norms[k]) for k in a)


def test_rows_of_a_card_are_the_cpus_by_id(rows: Rows) -> None:
    on_cpu, _ = rows(device="cpu", precision="fp32")
    on_gpu, result = rows(device="cuda", precision="fp32")
    assert result.device.startswith("cuda")
    assert apart(on_cpu, on_gpu) <= 1e-4
    automatic, result = rows(device="cuda")
    assert result.precision == "fp16"
    assert cosine(on_cpu, automatic) >= 0.999


def test_a_row_does_not_depend_on_the_batch(rows: Rows) -> None:
    for precision, near in (("fp32", 1e-4), ("fp16", 2e-2)):
        small, _ = rows(device="cuda", precision=precision, batch_size=32)
        large, _ = rows(device="cuda", precision=precision, batch_size=256)
        again, _ = rows(device="cuda", precision=precision, batch_size=256)
        assert apart(small, large) <= near
        assert apart(large, again) <= near / 10  # rows stood in other places of their batches


def test_two_processes_on_one_card_give_the_rows_of_one(rows: Rows) -> None:
    alone, _ = rows(device="cuda", precision="fp32")
    shared, _ = rows(device="cuda", precision="fp32", workers=2)
    assert apart(alone, shared) <= 1e-4


@pytest.mark.slow
def test_a_compiled_network_with_real_weights_gives_the_rows_of_a_plain_one(rows: Rows) -> None:
    plain, _ = rows(device="cuda", precision="fp32")
    compiled, result = rows(device="cuda", precision="fp32", compile="on")
    assert result.compiled
    assert apart(plain, compiled) <= 1e-4


def test_a_cache_of_the_cpu_is_continued_on_a_card_only_where_its_rows_come_out_again(
    photos: Path, tmp_path: Path
) -> None:
    cache, asked = tmp_path / "c.h5", {"backbone": "efficientnet_lite0", "progress": False}
    featx.extract(photos, cache, device="cpu", precision="fp32", **asked)
    Image.new("RGB", (300, 300), "red").save(photos / "new.jpg")
    found = featx.extract(photos, cache, device="cuda", **asked)
    assert (found.embedded, found.precision) == (1, "fp32")


@pytest.mark.parametrize("compile", ["off", "on"])
def test_fp32_is_true_fp32_for_any_number_of_images(compile: str) -> None:
    images = pictures(19)
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        with Runner(TinyReader(), on_card(compile=compile), SHAPE) as runner:
            runner.prepare(images[:8], 19)
            found = [runner(images), runner(images[:3])]
            assert runner.compiled == (compile == "on")
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = "none"
    for n, taps in zip((19, 3), found, strict=True):
        for a, b in zip(expected(TinyReader(), images[:n]), taps, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def test_the_fast_path_is_taken_and_recorded(caplog) -> None:
    caplog.set_level("INFO")
    with Runner(TinyReader(), on_card(), SHAPE) as runner:
        runner.prepare(pictures(8), 8)
    assert not [m for m in caplog.messages if "plain one" in m or "without a CUDA graph" in m]


def test_pictures_that_overflow_in_fp16_are_computed_again() -> None:
    images = pictures(16)
    images[5] = 250
    with Runner(Overflowing(), on_card(precision="fp16"), SHAPE) as runner:
        runner.prepare(images[:4], 16)
        found = runner(images)[1]
        assert runner.precision == "fp16"
    exact = expected(Overflowing(), images)[1]
    np.testing.assert_allclose(found[5], exact[5], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found, exact, rtol=0.02, atol=0.01)


def test_automatic_precision_agrees_in_threads() -> None:
    images = pictures(64)
    rows: dict[int, np.ndarray] = {}
    with Runner(TinyReader(), on_card(precision="auto"), SHAPE) as runner:
        runner.prepare(images[:8], 64)
        assert runner.precision == "fp16"

        def work(first: int) -> None:
            for i in range(first, 64, 32):
                rows[i] = runner(images[i : i + 8])[1]

        threads = [threading.Thread(target=work, args=(i,)) for i in (0, 8, 16, 24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = np.concatenate([rows[i] for i in sorted(rows)])
    np.testing.assert_allclose(found, expected(TinyReader(), images)[1], rtol=0.05, atol=0.02)


def test_a_batch_that_does_not_fit_becomes_one_that_does() -> None:
    shape = (512, 512, 3)
    images = np.zeros((256, *shape), np.uint8)
    torch.cuda.set_per_process_memory_fraction(
        1.5e9 / torch.cuda.get_device_properties(0).total_memory
    )
    try:
        with Runner(TinyReader(), on_card(batch_size=256), shape) as runner:
            found = runner(images)
            assert 1 <= runner.batch_size < 256
        assert found[0].shape == (256, 16)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_hidden_card_is_an_error_and_not_the_cpu() -> None:
    code = "from featx.runtime import plan_runtime; plan_runtime(device='cuda')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode
    assert "CUDA_VISIBLE_DEVICES='' hides every card" in done.stderr


def test_layers_tuned_on_a_card_are_the_same_twice_and_make_features_there(
    photos: Path, tmp_path: Path
) -> None:
    for k, photo in enumerate(sorted(photos.iterdir())):
        folder = tmp_path / "classes" / f"{k % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        photo.rename(folder / photo.name)
    asked = {"backbone": "efficientnet_lite0", "layer": "blocks.5", "maps": tmp_path / "m.h5"}
    asked |= {"device": "cuda", "epochs": 2, "batch_size": 32, "progress": False}
    for name in ("a", "b"):
        found = featx.tune(tmp_path / "classes", tmp_path / f"{name}.safetensors", **asked)
        assert [np.isfinite(epoch["loss"]) for epoch in found.history] == [True, True]
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    result = featx.extract(
        tmp_path / "classes", tmp_path / "tuned.h5", backbone="efficientnet_lite0",
        weights=tmp_path / "a.safetensors", device="cuda", progress=False,
    )  # fmt: skip
    assert (result.embedded, result.failed) == (200, 0)
