"""Device, precision, batch size, threads and compilation: decided once, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch

from featx.errors import DeviceError, nearest
from featx.runtime.devices import choose_device
from featx.runtime.machine import cpu_cores, native_bf16

Precision = Literal["fp32", "bf16", "fp16"]
Compile = Literal["auto", "on", "off"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# At 224x224. More makes activations that the allocator maps anew each time and that leave the
# processor's cache: EfficientNet-Lite0 lost a third from 8 to 32, ResNet-50 gained nothing.
CPU_BATCH = 8
CUDA_BATCH = 256
_WAITING = 2  # threads that wait for a card, while the others keep the cores busy


@dataclass(frozen=True)
class RuntimePlan:
    """How the forward pass runs.

    Parameters
    ----------
    device
        ``cpu``, ``mps``, ``cuda`` or ``cuda:1``.
    precision
        In which the network multiplies; the features are float32 whatever it is.
    batch_size
        Images in one forward. A ceiling where `probe` is set.
    threads
        Worker threads of the loop. On a CPU each runs its own single-threaded forward.
    compile
        ``auto`` compiles when the images waiting repay it or a package is there already.
    channels_last
        Memory layout of weights and pixels.
    probe
        Whether the runner may choose a smaller batch for large pictures or a small card.
    precision_asked
        Whether `precision` was named rather than chosen: then it is kept, with a warning, where
        it disagrees with fp32.
    fallbacks
        Precisions to try in turn where the one before disagrees with fp32.
    sharers
        Worker processes that share the device's memory.
    settled
        Whether the precision is that of features which exist, and the caller compares vectors with
        them: then nothing is tried on a CPU, and nothing is compiled.
    """

    device: str
    precision: Precision
    batch_size: int
    threads: int
    compile: Compile = "auto"
    channels_last: bool = True
    probe: bool = False
    precision_asked: bool = False
    fallbacks: tuple[Precision, ...] = ()
    sharers: int = 1
    settled: bool = False

    @property
    def kind(self) -> str:
        """The device without its index: ``cpu``, ``cuda`` or ``mps``."""
        return self.device.partition(":")[0]

    @property
    def streams(self) -> int:
        """Forward passes that run at the same time."""
        return self.threads if self.kind == "cpu" else 1

    def describe(self) -> str:
        """Say the plan in one line for the log.

        Examples
        --------
        >>> RuntimePlan("cpu", "fp32", 32, 2).describe()
        'cpu x 2 threads, fp32, batches of 32, channels last, compile auto'
        """
        plural = "" if self.threads == 1 else "s"
        return ", ".join(
            (
                f"{self.device} x {self.threads} thread{plural}",
                self.precision,
                f"batches of {'up to ' if self.probe else ''}{self.batch_size}",
                "channels last" if self.channels_last else "channels first",
                f"compile {self.compile}",
            )
        )


def plan_runtime(
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | str = "auto",
    compile: str = "auto",
    threads: int | None = None,
) -> RuntimePlan:
    """Decide how the forward pass runs on this machine.

    Parameters
    ----------
    device
        ``auto`` takes CUDA, else MPS, else the CPU. A device asked for is never replaced.
    precision
        ``auto`` takes fp16 on CUDA cards, bf16 on processors that multiply it natively, else fp32;
        where that disagrees too much with fp32, the runner takes the next one that the device
        has. A precision asked for is kept.
    batch_size
        ``auto``, or images in one forward (at least 1).
    compile
        ``auto``, ``on`` or ``off``.
    threads
        Worker threads; by default the cores that this process may use, and on a card two more,
        which wait for it.

    Raises
    ------
    DeviceError
        If the device is absent, the precision is not one of it, or a value is out of range.

    Examples
    --------
    >>> plan_runtime(device="cpu", precision="fp32", batch_size=8, threads=2).batch_size
    8
    """
    if compile not in get_args(Compile):
        raise DeviceError(f"compile must be auto, on or off, got {compile!r}")
    chosen = choose_device(device)
    probe = batch_size == "auto"
    kind = chosen.partition(":")[0]
    first = _choose_precision(chosen, precision)
    return RuntimePlan(
        device=chosen,
        precision=first,
        batch_size=_default_batch(kind) if probe else _positive("batch_size", batch_size),
        threads=_default_threads(kind) if threads is None else _positive("threads", threads),
        compile=cast(Compile, compile),
        probe=probe,
        precision_asked=precision != "auto",
        fallbacks=_after(first, supported_precisions(chosen)) if precision == "auto" else (),
    )


def _after(first: Precision, supported: tuple[Precision, ...]) -> tuple[Precision, ...]:
    return supported[supported.index(first) + 1 :]


def _positive(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DeviceError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def _default_threads(kind: str) -> int:
    return cpu_cores() + (_WAITING if kind == "cuda" else 0)


def _default_batch(kind: str) -> int:
    return CPU_BATCH if kind == "cpu" else CUDA_BATCH


def supported_precisions(device: str) -> tuple[Precision, ...]:
    """List what `device` multiplies natively, the best for features first.

    Examples
    --------
    >>> supported_precisions("cpu")[-1]
    'fp32'
    """
    if device.startswith("cuda"):
        newer = torch.cuda.get_device_capability(torch.device(device)) >= (8, 0)
        # On the CPU as a stand-in fp16 kept a cosine of .9999 on solar cells, bf16 of .992.
        return ("fp16", "bf16", "fp32") if newer else ("fp16", "fp32")
    if device == "mps":
        return ("fp32", "fp16")
    return ("bf16", "fp32") if native_bf16() else ("fp32",)


def _choose_precision(device: str, asked: str) -> Precision:
    supported = supported_precisions(device)
    if asked == "auto":
        return supported[0]
    if asked not in DTYPES:
        raise DeviceError(
            f"unknown precision {asked!r}{nearest(asked, DTYPES)}; use auto, {', '.join(DTYPES)}"
        )
    if asked not in supported:
        why = "slower than fp32 here" if device == "cpu" else "not multiplied by this card"
        raise DeviceError(
            f"precision {asked} on {device} is {why}; use {' or '.join(supported)}, or auto"
        )
    return asked
