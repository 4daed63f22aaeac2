from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from test_runtime import SHAPE, TinyReader, expected, pictures

from featx.runtime import Runner, plan_runtime
from featx.runtime.plan import RuntimePlan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def on_card(**changes: object) -> RuntimePlan:
    asked = {"device": "cuda", "precision": "fp32", "batch_size": 8, "compile": "off"}
    return plan_runtime(**{**asked, **changes})


@pytest.mark.parametrize("compile", ["off", "on"])
def test_fp32_is_true_fp32_for_any_number_of_images(compile: str) -> None:
    images = pictures(19)
    before = torch.backends.cudnn.allow_tf32
    with Runner(TinyReader(), on_card(compile=compile), SHAPE) as runner:
        runner.prepare(images[:8], 19)
        found = [runner(images), runner(images[:3])]
        assert runner.compiled == (compile == "on")
    assert torch.backends.cudnn.allow_tf32 == before
    for n, taps in zip((19, 3), found, strict=True):
        for a, b in zip(expected(TinyReader(), images[:n]), taps, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def test_automatic_precision_agrees_in_threads() -> None:
    images = pictures(64)
    rows: dict[int, np.ndarray] = {}
    with Runner(TinyReader(), on_card(precision="auto"), SHAPE) as runner:
        runner.prepare(images[:8], 64)
        assert runner.precision in ("bf16", "fp16")

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
