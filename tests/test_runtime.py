from __future__ import annotations

import platform
import resource
import threading

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featx.errors import DeviceError
from featx.runtime import Runner, RuntimePlan, cpu_cores, enter_worker_thread, plan_runtime
from featx.runtime.devices import available_devices
from featx.runtime.machine import _cgroup_quota, kept_memory, native_bf16

SHAPE = (32, 32, 3)
needs_bf16 = pytest.mark.skipif(not native_bf16(), reason="no bf16 multiply on this processor")


class TinyReader(nn.Module):
    """Same interface as the backbones': pixels in, two pooled taps out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.45))
        self.one = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16))
        self.two = nn.Sequential(nn.Conv2d(16, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24))
        for norm in (self.one[1], self.two[1]):
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        pixels = images.permute(0, 3, 1, 2).float() / 255 - self.mean
        first = self.one(pixels.to(self.one[0].weight.dtype)).relu()
        second = self.two(first).relu()
        return tuple(t.float().mean((2, 3)) for t in (first, second))


def pictures(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *SHAPE), dtype=np.uint8)


def plan(**changes: object) -> RuntimePlan:
    asked = {"device": "cpu", "precision": "fp32", "batch_size": 4, "threads": 2, "compile": "off"}
    return plan_runtime(**{**asked, **changes})


def expected(reader: nn.Module, images: np.ndarray) -> list[np.ndarray]:
    with torch.no_grad():
        return [t.numpy() for t in reader.eval()(torch.from_numpy(images))]


class Deep(nn.Module):
    """A network that holds a 3-D convolution, as timm's LambdaNets do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.flat = nn.Conv2d(3, 4, 3, 2)
        self.deep = nn.Conv3d(1, 2, (1, 3, 3))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.flat(images.permute(0, 3, 1, 2).float() / 255)
        return (self.deep(maps[:, None]).mean((3, 4)).flatten(1),)


def test_a_network_with_a_3d_convolution_runs_with_channels_last() -> None:
    reader, images = Deep(), pictures(5)
    with Runner(reader, plan(), SHAPE) as runner:
        (found,) = runner(images)
    assert plan().channels_last
    np.testing.assert_allclose(found, expected(reader, images)[0], rtol=1e-4, atol=1e-6)


def test_auto_takes_a_device_and_a_precision_that_are_there() -> None:
    chosen = plan_runtime()
    assert chosen.device in available_devices()
    assert chosen.threads == cpu_cores()
    assert chosen.describe().startswith(chosen.device)


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "cpu:1", "cuda:x", ""])
def test_a_device_that_is_not_there_is_an_error(device: str) -> None:
    with pytest.raises(DeviceError, match="device"):
        plan_runtime(device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_asked_for_and_absent_is_never_the_cpu() -> None:
    with pytest.raises(DeviceError, match=r"cuda was asked for and this machine has .*cpu"):
        plan_runtime(device="cuda")


def test_precision_beyond_the_hardware_names_alternatives() -> None:
    with pytest.raises(DeviceError, match=r"fp16 on cpu is slower than fp32 here; use .*fp32"):
        plan_runtime(device="cpu", precision="fp16")
    with pytest.raises(DeviceError, match="did you mean fp32"):
        plan_runtime(device="cpu", precision="fp31")


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"batch_size": "many"}, {"threads": 0}, {"compile": "yes"}]
)
def test_values_out_of_range_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(DeviceError, match=next(iter(wrong))):
        plan(**wrong)


def test_a_quota_of_the_control_group_counts(tmp_path) -> None:
    assert _cgroup_quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert _cgroup_quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert _cgroup_quota(tmp_path) == 1.5


def test_features_are_the_readers_and_the_reader_is_untouched() -> None:
    reader = TinyReader()
    reader.train()
    before = {name: value.clone() for name, value in reader.state_dict().items()}
    images = pictures(4)
    with Runner(reader, plan(), SHAPE) as runner:
        runner.prepare(images, 4)
        found = runner(images)
    assert reader.training
    assert all(torch.equal(value, before[name]) for name, value in reader.state_dict().items())
    assert all(p.requires_grad for p in reader.parameters())
    for a, b in zip(expected(reader, images), found, strict=True):
        assert b.dtype == np.float32
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


def test_batch_size_does_not_change_a_row() -> None:
    images = pictures(4)
    with Runner(TinyReader(), plan(), SHAPE) as runner:
        whole = runner(images)
        single = [runner(images[i : i + 1]) for i in range(4)]
    for k, tap in enumerate(whole):
        np.testing.assert_allclose(np.concatenate([s[k] for s in single]), tap, rtol=1e-5)


@needs_bf16
def test_bf16_runs_when_it_agrees() -> None:
    images = pictures(4)
    with Runner(TinyReader(), plan(precision="bf16"), SHAPE) as runner:
        runner.prepare(images, 4)
        found = runner(images)
        assert runner.precision == "bf16"
    exact = expected(TinyReader(), images)
    assert not np.array_equal(found[1], exact[1])
    np.testing.assert_allclose(found[1], exact[1], rtol=0.05, atol=0.02)


class Cancelling(TinyReader):
    """Differences of near-equal products: what low precision cannot do."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Conv2d(3, 3, 1, bias=False)
        self.same.weight.data.copy_(torch.eye(3).view(3, 3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        large = images.float().mean((1, 2)).view(-1, 3, 1, 1) + 4096
        return (self.same(large.to(self.same.weight.dtype)).float().flatten(1) - 4096 - 127,)


@needs_bf16
def test_automatic_bf16_is_abandoned_with_a_warning_when_it_disagrees(caplog) -> None:
    images = pictures(4)
    chosen = plan(precision="auto")
    assert chosen.precision == "bf16"
    with Runner(Cancelling(), chosen, SHAPE) as runner:
        runner.prepare(images, 4)
        assert runner.precision == "fp32"
        np.testing.assert_allclose(runner(images)[0], expected(Cancelling(), images)[0])
    assert "bf16 features differ from fp32" in caplog.text
    assert "going on with fp32" in caplog.text


@needs_bf16
def test_bf16_asked_for_is_kept_with_a_warning_when_it_disagrees(caplog) -> None:
    images = pictures(4)
    with Runner(Cancelling(), plan(precision="bf16"), SHAPE) as runner:
        runner.prepare(images, 4)
        assert runner.precision == "bf16"
        assert not np.allclose(runner(images)[0], expected(Cancelling(), images)[0])
    assert "bf16 features differ from fp32" in caplog.text
    assert "going on with bf16 as asked" in caplog.text


def test_threads_run_at_once_and_get_their_own_rows() -> None:
    images = pictures(32)
    found: dict[int, list[np.ndarray]] = {}
    with Runner(TinyReader(), plan(), SHAPE) as runner:
        runner.prepare(images[:4], 32)

        def work(start: int) -> None:
            enter_worker_thread()
            for i in range(start, 32, 8):
                found[i] = runner(images[i : i + 4])

        threads = [threading.Thread(target=work, args=(s,)) for s in (0, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    rows = np.concatenate([found[i][1] for i in range(0, 32, 4)])
    np.testing.assert_allclose(rows, expected(TinyReader(), images)[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrong", [(0, 32, 32, 3), (2, 16, 32, 3), (2, 3, 32, 32)])
def test_images_of_another_shape_are_refused(wrong: tuple[int, ...]) -> None:
    with (
        Runner(TinyReader(), plan(), SHAPE) as runner,
        pytest.raises(ValueError, match="uint8 of shape"),
    ):
        runner(np.zeros(wrong, np.uint8))


def test_large_pictures_make_smaller_automatic_batches() -> None:
    automatic = plan(batch_size="auto")
    small = Runner(TinyReader(), automatic, (224, 224, 3)).batch_size
    large = Runner(TinyReader(), automatic, (2048, 2048, 3)).batch_size
    assert 1 <= large < small <= 32
    assert Runner(TinyReader(), plan(batch_size=7), (512, 512, 3)).batch_size == 7


def test_backbones_of_the_library_run_in_threads() -> None:
    from featx.backbones.reader import TapReader
    from featx.backbones.taps import Tap
    from featx.preprocess import Preprocess

    tiny = TinyReader()
    net = nn.Sequential(tiny.one, nn.ReLU(inplace=True), tiny.two)
    reader = TapReader(net, [Tap.at("0"), Tap.at("2", pool="max")], Preprocess(input_size=(32, 32)))
    images = pictures(8)
    with torch.no_grad():
        exact = [t.numpy() for t in reader(torch.from_numpy(images))]
    found: list[list[np.ndarray]] = []
    with Runner(reader, plan(), SHAPE) as runner:
        runner.prepare(images[:4], 8)

        def work() -> None:
            enter_worker_thread()
            for _ in range(20):
                found.append(
                    list(
                        map(
                            np.concatenate, zip(runner(images[:4]), runner(images[4:]), strict=True)
                        )
                    )
                )

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 40
    for taps in found:
        for a, b in zip(exact, taps, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


class Small(TinyReader):
    """A reader on a card that holds two pictures, or none."""

    room = 2

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if len(images) > self.room:
            raise torch.OutOfMemoryError("tried to allocate")
        return super().forward(images)


def test_out_of_memory_halves_the_batch_and_remembers(caplog) -> None:
    images = pictures(19)
    with Runner(Small(), plan(batch_size=16), SHAPE) as runner:
        runner.prepare(images[:1], 19)
        found = runner(images)
        assert runner.batch_size == 2
        runner(images)
    np.testing.assert_allclose(found[1], expected(TinyReader(), images)[1], rtol=1e-5, atol=1e-6)
    assert [r.message for r in caplog.records if r.name == "featx"] == [
        f"out of memory on cpu; batches of {n}" for n in (8, 4, 2)
    ]


def test_one_picture_that_does_not_fit_is_an_error() -> None:
    reader = Small()
    reader.room = 0
    with (
        Runner(reader, plan(), SHAPE) as runner,
        pytest.raises(DeviceError, match="not even one picture fits"),
    ):
        runner(pictures(2))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_large_blocks_are_reused_while_somebody_keeps_memory() -> None:
    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(3):
            torch.ones(16 << 20)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with kept_memory(), kept_memory():
        faults()
        reused = min(faults() for _ in range(3))
    assert faults() > 1000 > reused
