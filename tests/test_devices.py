"""Cards that are there and cannot be used: one line with the cause and the way out, never the CPU.

No card is needed: what torch says of one is put in its place.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch

from featx.doctor import diagnose
from featx.errors import DeviceError
from featx.runtime import devices, plan_runtime
from featx.runtime.devices import card_failure, choose_device, open_device, runs_on

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make torch see a machine: its cards by architecture, and what it says as it starts."""

    def set_up(
        *capabilities: tuple[int, int],
        said: str = "",
        built: str | None = "13.0",
        architectures: tuple[str, ...] = ("sm_75", "sm_80", "sm_90", "compute_90"),
        nvidia: bool = True,
        visible: str | None = None,
    ) -> None:
        def available() -> bool:
            if said:
                warnings.warn(said, stacklevel=1)
            return bool(capabilities)

        monkeypatch.setattr(torch.cuda, "is_available", available)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: at(capabilities, i))
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(architectures))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"Card {i}")
        monkeypatch.setattr(torch.version, "cuda", built)
        monkeypatch.setattr(devices, "_has_nvidia", lambda: nvidia)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return set_up


def at(capabilities: tuple[tuple[int, int], ...], device: object) -> tuple[int, int]:
    index = torch.device(device).index if isinstance(device, (str, torch.device)) else int(device)
    return capabilities[index or 0]


TROUBLES = {
    "driver": (
        {"said": "CUDA initialization: The NVIDIA driver on your system is too old (found version "
                 "11040). Please update your GPU driver"},
        r"driver is too old \(it knows CUDA 11\.4\) for torch .*, built for CUDA 13\.0; update",
    ),
    "no CUDA in torch": ({"built": None}, r"built without CUDA; install a CUDA build of torch"),
    "hidden": ({"visible": ""}, r"CUDA_VISIBLE_DEVICES='' hides every card; unset it"),
    "MIG without a slice": (
        {"said": "CUDA initialization: CUDA unknown error"},
        r"CUDA does not start \(CUDA initialization: CUDA unknown error\); .*MIG mode without a s",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TROUBLES)
def test_cuda_asked_for_says_why_there_is_none_and_what_to_do(machine: Machine, name: str) -> None:
    options, words = TROUBLES[name]
    machine(**options)
    with pytest.raises(DeviceError, match=words) as error:
        plan_runtime(device="cuda")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", TROUBLES)
def test_auto_says_so_once_and_goes_on(machine: Machine, caplog, name: str) -> None:
    options, _ = TROUBLES[name]
    machine(**options)
    assert choose_device("auto") == "cpu"
    (line,) = caplog.messages
    assert line.startswith("no CUDA card is used: ")
    assert line.endswith("Going on with cpu")


@pytest.mark.parametrize("name", TROUBLES)
def test_doctor_knows_it(machine: Machine, name: str) -> None:
    options, _ = TROUBLES[name]
    machine(**options)
    found = diagnose()
    assert found["cuda"]["trouble"]
    assert any(found["cuda"]["trouble"] in line for line in found["advice"])


def test_a_machine_without_a_card_is_told_nothing_unless_it_asks(machine: Machine, caplog) -> None:
    machine(nvidia=False)
    assert choose_device("auto") == "cpu"
    assert not caplog.messages
    assert diagnose()["cuda"]["trouble"] is None
    with pytest.raises(DeviceError, match="there is no NVIDIA card, or no driver for it"):
        choose_device("cuda")


def test_a_card_for_which_torch_has_no_code_is_named_and_the_others_are_used(
    machine: Machine, caplog
) -> None:
    machine((6, 1), (8, 6))
    assert devices.usable_cards() == ["cuda:1"]
    with pytest.raises(DeviceError, match=r"cuda:0 \(Card 0\) is of architecture sm_61, and torch"):
        choose_device("cuda:0")
    assert choose_device("cuda:1") == "cuda:1"


def test_a_card_that_the_environment_hides_is_said_to_be(machine: Machine) -> None:
    machine((9, 0), visible="0")
    with pytest.raises(DeviceError, match=r"has cuda, cuda:0, cpu .*CUDA_VISIBLE_DEVICES"):
        choose_device("cuda:1")
    machine((9, 0), visible="MIG-123")
    with pytest.raises(DeviceError, match="a process sees one MIG slice"):
        choose_device("cuda:1")


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((8, 9), ["sm_80", "sm_86"], True),
        ((8, 0), ["sm_86"], False),
        ((10, 0), ["sm_90"], False),
        ((10, 0), ["sm_90", "compute_90"], True),
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a"], False),
        ((9, 4), ["gfx942"], True),
        ((7, 5), [], True),
    ],
)
def test_code_runs_on_its_generation(
    capability: tuple[int, int], built: list[str], runs: bool
) -> None:
    assert runs_on(capability, built) == runs


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("CUDA error: all CUDA-capable devices are busy or unavailable", "another process"),
        ("CUDA error: no kernel image is available for execution on the device", "architecture"),
        ("Cannot re-initialize CUDA in forked subprocess. To use CUDA", "forked"),
        ("CUDA error: an illegal memory access was encountered\nCUDA kernel errors", "has failed"),
        ("CUDA error: out of memory", "has no memory left"),
    ],
)
def test_an_error_of_the_card_becomes_one_line(
    monkeypatch: pytest.MonkeyPatch, said: str, words: str
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(torch, "zeros", refuse)
    with pytest.raises(DeviceError, match=words) as error:
        open_device("cuda:1")
    assert str(error.value).startswith("cuda:1 ")
    assert "\n" not in str(error.value)


def test_an_error_that_is_not_the_cards_stays_what_it_is() -> None:
    assert card_failure("cuda", RuntimeError("shape mismatch")) is None


def test_the_best_precision_of_a_card_is_fp16_then_bf16(
    machine: Machine,
) -> None:
    machine((9, 0), (7, 5))
    first = plan_runtime(device="cuda:0")
    assert (first.precision, first.fallbacks) == ("fp16", ("bf16", "fp32"))
    older = plan_runtime(device="cuda:1")
    assert (older.precision, older.fallbacks) == ("fp16", ("fp32",))


def test_memory_that_cannot_be_locked_is_ordinary_memory_and_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    from featx.runtime import card

    real = torch.empty

    def refuse(*args: object, pin_memory: bool = False, **kwargs: object) -> torch.Tensor:
        if pin_memory:
            raise RuntimeError("CUDA error: OS call failed or operation not supported")
        return real(*args, **kwargs)

    monkeypatch.setattr(torch, "empty", refuse)
    monkeypatch.setattr(card, "_unpinned", set())
    for _ in range(2):
        assert card.pinned_tensor((2, 3), torch.uint8).shape == (2, 3)
    (line,) = caplog.messages
    assert "no page-locked memory" in line
