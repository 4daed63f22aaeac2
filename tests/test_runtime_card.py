"""The host's side of a card, on streams, events and memory of a stub: see stub_card.py."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from stub_card import StubCard
from test_runtime import SHAPE, TinyReader, expected, pictures
from torch import Tensor

from featx.errors import DeviceError
from featx.runtime import Runner
from featx.runtime.cuda import CudaForward, Launcher
from featx.runtime.machine import is_out_of_memory
from featx.runtime.plan import RuntimePlan

PLAN = RuntimePlan("cuda", "fp32", batch_size=8, threads=4, compile="off", channels_last=False)


def plan(**changes: object) -> RuntimePlan:
    from dataclasses import replace

    return replace(PLAN, **changes)


@pytest.fixture
def make() -> Iterator[Callable[..., tuple[StubCard, Runner]]]:
    made: list[tuple[StubCard, Runner]] = []

    def runner(reader: torch.nn.Module, asked: RuntimePlan = PLAN, **card: object):
        stub = StubCard(**card)
        made.append((stub, Runner(reader, asked, SHAPE, card=stub)))
        return made[-1]

    yield runner
    for stub, opened in made:
        opened.close()
        stub.close()


def in_threads(work: Callable[[int], None], n: int) -> None:
    threads = [threading.Thread(target=work, args=(k,)) for k in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def rows_of(runner: Runner, images: np.ndarray, sizes: list[int]) -> np.ndarray:
    """Rows of the second tap, in pieces of these sizes, from four threads at once."""
    starts = np.cumsum([0, *sizes])
    found: dict[int, np.ndarray] = {}

    def work(k: int) -> None:
        for piece in range(k, len(sizes), 4):
            found[piece] = runner(images[starts[piece] : starts[piece + 1]])[1]

    in_threads(work, 4)
    return np.concatenate([found[k] for k in range(len(sizes))])


def test_rows_are_the_cpus_although_everything_runs_late(make) -> None:
    images = pictures(8 * 24)
    card, runner = make(TinyReader(), delay=0.002)
    found = rows_of(runner, images, [8] * 24)
    np.testing.assert_allclose(found, expected(TinyReader(), images)[1], rtol=1e-4, atol=1e-6)
    assert card.captures == 1
    assert card.replays >= 24
    assert len({name.rsplit("_", 1)[0] for name in card.launchers}) == 1
    assert len(card.launchers) == 1  # one thread launched everything


def test_short_batches_have_their_own_rows_and_no_more(make) -> None:
    images = pictures(8 + 1 + 5 + 8 + 3 + 2 + 7 + 8)
    _, runner = make(TinyReader(), delay=0.001)
    found = rows_of(runner, images, [8, 1, 5, 8, 3, 2, 7, 8])
    np.testing.assert_allclose(found, expected(TinyReader(), images)[1], rtol=1e-4, atol=1e-6)


def test_a_card_that_does_not_wait_for_its_events_gives_wrong_rows() -> None:
    """The stub shows memory that is used too early; otherwise the tests above would say nothing."""

    class Hasty(StubCard):
        def follow(self, stream: object, event: object) -> None:
            pass

    card, launcher = Hasty(delay=0.0), Launcher()
    forward = CudaForward(TinyReader().eval(), (4, *SHAPE), True, card, launcher)
    copying = card.streams[0]
    images = pictures(4)
    copying.delay = 0.2  # the pixels arrive long after they are needed
    found = forward(images)[1]
    assert not np.allclose(found, expected(TinyReader(), images)[1], rtol=1e-3)
    launcher.close()
    card.close()


@pytest.mark.parametrize("full_at", ["empty", "beside", "enqueue", "capture"])
def test_out_of_memory_anywhere_halves_and_the_rows_stay_equal(make, caplog, full_at: str) -> None:
    images = pictures(32)
    card, runner = make(TinyReader(), room=2, full_at=full_at)
    found = rows_of(runner, images, [8] * 4)
    assert runner.batch_size == 2
    assert card.released
    np.testing.assert_allclose(found, expected(TinyReader(), images)[1], rtol=1e-4, atol=1e-6)
    said = [r.getMessage() for r in caplog.records if "out of memory" in r.getMessage()]
    assert said == ["out of memory on cuda; batches of 4", "out of memory on cuda; batches of 2"]


def test_four_threads_that_run_out_of_memory_at_once_halve_once(make, caplog) -> None:
    images = pictures(64)
    card, runner = make(TinyReader())
    runner.prepare(images[:8], 64)
    card.room = 4  # a neighbour takes memory while four threads run
    found = rows_of(runner, images, [8] * 8)
    assert runner.batch_size == 4
    np.testing.assert_allclose(found, expected(TinyReader(), images)[1], rtol=1e-4, atol=1e-6)
    said = [r.getMessage() for r in caplog.records if "out of memory" in r.getMessage()]
    assert said == ["out of memory on cuda; batches of 4"]


def test_a_card_without_room_for_one_picture_is_an_error_and_no_thread_hangs(make) -> None:
    _, runner = make(TinyReader(), room=0)
    refused: list[str] = []

    def work(k: int) -> None:
        with pytest.raises(DeviceError, match="not even one picture fits") as error:
            runner(pictures(8))
        refused.append(str(error.value))

    in_threads(work, 4)
    assert len(refused) == 4


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB, max 9.07 GB)"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: BaseException, memory: bool) -> None:
    assert is_out_of_memory(error) == memory


class Unrecordable(StubCard):
    """A card on which a network cannot be recorded as a graph."""

    def capture(self, work: Callable[[], None], stream: object) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")


def test_a_network_that_cannot_be_recorded_runs_without_a_graph(caplog) -> None:
    caplog.set_level(logging.INFO)
    images, card = pictures(16), Unrecordable()
    with Runner(TinyReader(), PLAN, SHAPE, card=card) as runner:
        found = rows_of(runner, images, [8, 8])
    card.close()
    np.testing.assert_allclose(found, expected(TinyReader(), images)[1], rtol=1e-4, atol=1e-6)
    assert "runs without a CUDA graph" in caplog.text


class Wrong(StubCard):
    """A card whose fast path computes something else."""

    def beside(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return _Deaf(super().beside(shape, dtype))


class _Deaf(torch.Tensor):
    """Memory that does not take what is copied to it."""

    def copy_(self, *args: object, **kwargs: object) -> Tensor:  # type: ignore[override]
        return self


@pytest.mark.parametrize("fault", ["raises", "disagrees"])
def test_the_plain_path_is_taken_with_one_line_when_the_fast_one_fails(caplog, fault: str) -> None:
    card = StubCard() if fault == "raises" else Wrong()
    if fault == "raises":
        card.fault = RuntimeError("cudaErrorSomething")
    images = pictures(19)
    with Runner(TinyReader(), PLAN, SHAPE, card=card) as runner:
        found = runner(images)
    card.close()
    np.testing.assert_allclose(found[1], expected(TinyReader(), images)[1], rtol=1e-4, atol=1e-6)
    lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert lines[0].startswith("the fast path on cuda ")
    assert "going on with the plain one" in lines[0]


def test_what_ends_the_launchers_work_goes_to_who_submitted_it_and_the_next_goes_on() -> None:
    launcher = Launcher()

    def die() -> None:
        raise SystemExit("launcher")

    with pytest.raises(SystemExit):
        launcher.run(die)
    assert launcher.run(lambda: 3) == 3
    launcher.close()
    with pytest.raises(DeviceError, match="closed"):
        launcher.run(lambda: 3)


def test_who_waits_when_the_launcher_closes_is_told() -> None:
    launcher, started, go = Launcher(), threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        go.wait(30)

    first = launcher.submit(hold)
    started.wait(30)
    waiting = launcher.submit(lambda: 3)
    launcher.close()
    go.set()
    first.result(30)
    assert waiting.cancelled()


def test_an_interrupted_caller_does_not_lose_its_slot(make, monkeypatch) -> None:
    """As after Ctrl-C in a notebook: the next batches find two slots, and their own rows."""
    images = pictures(8 * 6)
    _, runner = make(TinyReader(), delay=0.005)
    runner.prepare(images[:8], len(images))
    for _ in range(3):  # more often than there are slots
        with monkeypatch.context() as patched:
            patched.setattr("featx.runtime.cuda.result_of", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                runner(images[:8])
    found = rows_of(runner, images, [8] * 6)
    np.testing.assert_allclose(found, expected(TinyReader(), images)[1], rtol=1e-4, atol=1e-6)


def _interrupt(future: object) -> None:
    raise KeyboardInterrupt


class Overflowing(TinyReader):
    """Float16 ends at 65,504: bright pictures exceed it on the way."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        weight = self.one[0].weight
        bright = images.float().mean((1, 2, 3), keepdim=True).to(weight.dtype)
        scale = torch.where(bright > 200, bright * 1000, torch.ones_like(bright))
        first, second = super().forward(images)
        factor = (scale / scale.clamp(min=1)).flatten(1).float()
        return first * factor, second * factor


def test_pictures_that_overflow_in_fp16_are_computed_again_in_fp32(make) -> None:
    images = pictures(16)
    images[5] = 250
    _, runner = make(Overflowing(), plan(precision="fp16", fallbacks=("bf16", "fp32")))
    runner.prepare(images[:4], 16)
    found = runner(images)[1]
    assert runner.precision == "fp16"
    exact = expected(Overflowing(), images)[1]
    np.testing.assert_allclose(found[5], exact[5], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found, exact, rtol=0.02, atol=0.01)
    assert not np.array_equal(found[4], exact[4])  # which shows that the others are float16's


def test_a_source_of_which_most_overflows_takes_the_next_precision(make, caplog) -> None:
    images = np.full((16, *SHAPE), 250, np.uint8)
    _, runner = make(Overflowing(), plan(precision="fp16", fallbacks=("bf16", "fp32")))
    runner.prepare(images, 16)
    assert runner.precision in ("bf16", "fp32")
    assert "100% of the pictures overflow in fp16; going on with bf16" in caplog.text


class Rounding(TinyReader):
    """A device that rounds float32 products, as TF32 does: right on the CPU, wrong on the card."""

    on_card = threading.local()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        taps = super().forward(images)
        if self.one[0].weight.is_contiguous(memory_format=torch.channels_last):
            return tuple(tap * 1.01 for tap in taps)
        return taps


def test_a_layout_that_a_device_computes_wrongly_is_left(make, caplog) -> None:
    images = pictures(8)
    _, runner = make(Rounding(), plan(channels_last=True))
    found = runner(images)[1]
    np.testing.assert_allclose(found, expected(Rounding(), images)[1], rtol=1e-4, atol=1e-6)
    assert "computes channels last wrongly" in caplog.text


def test_a_device_that_computes_something_else_than_the_cpu_is_refused(make, monkeypatch) -> None:
    from featx.runtime.forward import PlainForward

    right = PlainForward.__call__
    monkeypatch.setattr(
        PlainForward, "__call__", lambda self, images: [t * 1.001 for t in right(self, images)]
    )
    _, runner = make(TinyReader())
    with pytest.raises(DeviceError, match=r"cuda computes other features than the CPU in fp32"):
        runner(pictures(8))


def test_a_batch_follows_the_memory_that_is_free_and_the_workers_of_the_card() -> None:
    card = StubCard()
    card.total, shape = 16 << 30, (512, 512, 3)
    asked = plan(probe=True, batch_size=256)

    def batch(free: int, sharers: int) -> int:
        card.free = free
        return Runner(TinyReader(), plan(probe=True, batch_size=256, sharers=sharers), shape,
                      card=card).batch_size  # fmt: skip

    alone, shared, crowded = batch(16 << 30, 1), batch(16 << 30, 4), batch(1 << 30, 1)
    assert asked.batch_size >= alone > shared >= 1
    assert crowded < alone
