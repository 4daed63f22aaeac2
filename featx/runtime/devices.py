"""The devices of this machine, and in one line why a card that is there cannot be used."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featx.errors import DeviceError, nearest, words_of
from featx.runtime.machine import is_out_of_memory

log = logging.getLogger("featx")

VISIBLE = "CUDA_VISIBLE_DEVICES"
_INSTALL = "install a CUDA build of torch (pytorch.org/get-started/locally)"
# What CUDA says, and what it means to whoever reads it.
_FAILURES = (
    (
        r"busy or unavailable|exclusive|cudaErrorDevicesUnavailable",
        "is in use by another process, which has it to itself; wait for that process, name another "
        f"card with {VISIBLE}, or end exclusive mode with `nvidia-smi -c 0`",
    ),
    (
        r"no kernel image|not compatible with the current PyTorch",
        f"is of an architecture that this torch was not built for; {_INSTALL} for it",
    ),
    (
        r"forked subprocess",
        "cannot be used in a process that was forked after CUDA had started; start the process by "
        "`spawn`",
    ),
    (
        r"device-side assert|illegal memory access|misaligned address|unspecified launch failure"
        r"|ECC|fallen off the bus|illegal instruction",
        "has failed, and this process cannot use it any more; what is done is kept: run the same "
        "command again, with --compile off if it fails again, and look at `nvidia-smi`",
    ),
)


def available_devices() -> tuple[str, ...]:
    """Name the devices that can be used, ``cuda`` and ``cuda:i`` both; ``cpu`` is always there."""
    found: list[str] = []
    if cards := usable_cards():
        found += ["cuda", *cards]
    if torch.backends.mps.is_available():
        found.append("mps")
    return (*found, "cpu")


def usable_cards() -> list[str]:
    """Name the CUDA cards for which this torch has code; ``cuda`` is the first that torch sees."""
    count, _ = _seen_cards()
    return [f"cuda:{i}" for i in range(count) if _foreign_architecture(i) is None]


def _seen_cards() -> tuple[int, str]:
    """How many cards torch sees, and what it says if CUDA does not start."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return count, " ".join(str(warning.message) for warning in said)


def cuda_trouble() -> str | None:
    """Say in one line why no CUDA card, or not every one, can be used, and the way out.

    None where nothing is wrong, also where this machine has no NVIDIA card at all.
    """
    count, said = _seen_cards()
    if count:
        troubles = [_foreign_architecture(i) for i in range(count)]
        return next((trouble for trouble in troubles if trouble is not None), None)
    return _reason_for_none(said) if _has_nvidia() else None


def cuda_state() -> dict[str, Any]:
    """Say what torch is built for, what the environment shows, and the trouble, JSON-ready."""
    return {
        "built_for": torch.version.cuda,
        "architectures": torch.cuda.get_arch_list(),
        VISIBLE: os.environ.get(VISIBLE),
        "trouble": cuda_trouble(),
    }


def _reason_for_none(said: str) -> str:
    """Why torch sees no card, from what it says and how it was built."""
    version = torch.__version__
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {version} is built without CUDA; {_INSTALL}"
    if "too old" in said:
        found = re.search(r"found version (\d+)", said)
        has = f" (it knows CUDA {_dotted(int(found[1]))})" if found else ""
        return (
            f"the NVIDIA driver is too old{has} for torch {version}, built for CUDA "
            f"{torch.version.cuda}; update the driver, or install a torch built for an older CUDA"
        )
    hidden = os.environ.get(VISIBLE)
    if hidden is not None:
        return (
            f"{VISIBLE}={hidden!r} hides every card; unset it, or set it to a number or UUID that "
            "`nvidia-smi -L` lists (a MIG card: to the UUID of one of its slices)"
        )
    if not _has_nvidia() or "no NVIDIA driver" in said:
        return "there is no NVIDIA card, or no driver for it; `nvidia-smi` should list one"
    words = " ".join(said.split())[:160]
    return (
        f"CUDA does not start{f' ({words})' if words else ''}; see whether `nvidia-smi` lists the "
        "card, whether it is in MIG mode without a slice, and whether a container was given it"
    )


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _has_nvidia() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()


def _foreign_architecture(index: int) -> str | None:
    """Say that this torch has no code for a card; None where it has."""
    capability = torch.cuda.get_device_capability(index)
    built = torch.cuda.get_arch_list()
    if runs_on(capability, built):
        return None
    return (
        f"cuda:{index} ({torch.cuda.get_device_name(index)}) is of architecture "
        f"sm_{capability[0]}{capability[1]}, and torch {torch.__version__} is built for "
        f"{', '.join(built)}; {_INSTALL} for it, or pass --device cpu"
    )


def runs_on(capability: tuple[int, int], built: Sequence[str]) -> bool:
    """True if one of the architectures that a torch is built for runs on a card.

    Machine code (``sm_86``) runs on the same generation from its minor number on; an intermediate
    form (``compute_86``) is compiled for any later card. An empty list, or one of another maker,
    is believed.

    Examples
    --------
    >>> runs_on((8, 9), ["sm_80", "sm_90"]), runs_on((6, 1), ["sm_75", "sm_80"])
    (True, False)
    >>> runs_on((12, 0), ["sm_90", "compute_90"])
    True
    """
    known = [
        found for name in built if (found := re.fullmatch(r"(sm|compute)_(\d+)(\d)(a|f)?", name))
    ]
    if not known or len(known) < len(built):
        return True
    for found in known:
        major, minor = int(found[2]), int(found[3])
        if found[4]:
            if (major, minor) == capability:
                return True
        elif found[1] == "compute" and (major, minor) <= capability:
            return True
        elif found[1] == "sm" and major == capability[0] and minor <= capability[1]:
            return True
    return False


def choose_device(asked: str) -> str:
    """Name the device to use; ``auto`` is the best that this machine has.

    A card that is there and cannot be used is said in one line when ``auto`` goes on without it.

    Raises
    ------
    DeviceError
        If it is unknown, or not there, with the reason.
    """
    here = available_devices()
    if asked == "auto":
        chosen = next(d for d in ("cuda", "mps", "cpu") if d in here)
        if chosen != "cuda" and (trouble := cuda_trouble()) is not None:
            log.warning("no CUDA card is used: %s. Going on with %s", trouble, chosen)
        return chosen
    kind, _, index = asked.partition(":")
    if kind not in {"cuda", "mps", "cpu"} or (index and not (kind == "cuda" and index.isdigit())):
        known = ("auto", "cpu", "cuda", "cuda:0", "mps")
        raise DeviceError(
            f"unknown device {asked!r}{nearest(asked, known)}; use auto, cpu, cuda, cuda:N or mps"
        )
    name = f"cuda:{int(index)}" if index else kind
    if name not in here or (kind == "cuda" and f"cuda:{int(index or 0)}" not in here):
        raise DeviceError(
            f"device {asked} was asked for and this machine has {', '.join(here)} "
            f"(torch {torch.__version__}){_why_not(kind, index, here)}"
        )
    return asked


def _why_not(kind: str, index: str, here: Sequence[str]) -> str:
    if kind != "cuda":
        return "; pass --device auto to take what is there"
    if index and "cuda" in here and int(index) >= torch.cuda.device_count():
        mig = "MIG" in torch.cuda.get_device_name(0) or "MIG" in os.environ.get(VISIBLE, "")
        if mig:
            return f"; a process sees one MIG slice: start one for each, by {VISIBLE}"
        return f"; {VISIBLE} or the container may hide it"
    trouble = cuda_trouble() or _reason_for_none(_seen_cards()[1])
    return f": {trouble}. Pass --device auto to take what is there"


def card_failure(device: str, error: BaseException) -> DeviceError | None:
    """Say what an error of CUDA means and the way out; None if it is not a known one."""
    if is_out_of_memory(error):
        return DeviceError(
            f"{device} has no memory left ({words_of(error)}); see in `nvidia-smi` who has it, "
            f"wait for that process, or name another card with {VISIBLE}"
        )
    for pattern, meaning in _FAILURES:
        if re.search(pattern, str(error)):
            first = str(error).splitlines()[0]
            return DeviceError(f"{device} {meaning} ({' '.join(first.split())[:120]})")
    return None


def open_device(device: str) -> None:
    """Use a card for the first time, so that one which cannot be used says so at once.

    Raises
    ------
    DeviceError
        With the cause and the way out.
    """
    if not device.startswith("cuda"):
        return
    try:
        torch.zeros(1, device=device)
        return
    except (RuntimeError, AssertionError) as error:
        failure = card_failure(device, error)
        reason = words_of(error)
    raise failure or DeviceError(f"{device} cannot be used ({reason}); see `featx doctor`")


@dataclass(frozen=True)
class ArrayDevice:
    """Puts arrays on a device and gets them back.

    Examples
    --------
    >>> here = ArrayDevice("cpu")
    >>> here.get(2 * here.put(np.arange(3)))
    array([0, 2, 4])
    """

    name: str

    def put(self, values: NDArray[Any]) -> torch.Tensor:
        """Copy an array to the device."""
        return torch.as_tensor(np.ascontiguousarray(values), device=self.name)

    def get(self, values: torch.Tensor) -> NDArray[Any]:
        """Copy an array from the device."""
        found: NDArray[Any] = values.cpu().numpy()
        return found


def array_device(asked: str) -> ArrayDevice | None:
    """Find a device by torch's name for it; None where it is the processor.

    Raises
    ------
    DeviceError
        If it is unknown, or not there.
    """
    chosen = choose_device(asked)
    return None if chosen == "cpu" else ArrayDevice(chosen)
