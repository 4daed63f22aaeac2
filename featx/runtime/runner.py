"""The forward pass: uint8 pictures in, float32 vectors out, as fast as the plan allows."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featx.errors import DeviceError
from featx.runtime.fast import MIN_COSINE, Floats, Replicas, converted, lowest_cosine, true_fp32
from featx.runtime.machine import memory_bytes
from featx.runtime.plan import DTYPES, Precision, RuntimePlan

log = logging.getLogger("featx")

Pixels = NDArray[np.uint8]
Forward = Callable[[Tensor], Sequence[Tensor]]
_BYTES_PER_PIXEL = 64 * 4 * 3  # three float32 activations of 64 channels at full resolution


def enter_worker_thread() -> None:
    """Let the calling thread compute alone; each worker of the loop calls this once.

    N workers with one thread each keep N cores busy without a barrier in any operator.
    """
    torch.set_num_threads(1)


class Runner:
    """Runs one reader under one plan, from any number of threads at once.

    Parameters
    ----------
    reader
        Module that maps uint8 of shape (n, height, width, 3) to a tuple of float32 tensors of
        shape (n, d_k). It is read, never changed.
    plan
        From :func:`~featx.runtime.plan_runtime`.
    image_shape
        (height, width, 3) of every picture.
    key
        Text that names architecture, weights, taps and normalisation; compiled packages are
        kept under it. Empty: none is kept or looked for.

    Attributes
    ----------
    precision : str
        What the network really multiplies in; it belongs to the fingerprint.
    compiled : bool
        Whether compiled code runs.
    compile_seconds : float
        Seconds that compiling or loading a package took.
    batch_size : int
        Images that one call takes at most.
    """

    def __init__(
        self, reader: nn.Module, plan: RuntimePlan, image_shape: tuple[int, int, int], key: str = ""
    ) -> None:
        self.plan = plan
        self.image_shape = image_shape
        self.precision: Precision = plan.precision
        self.compiled = False
        self.compile_seconds = 0.0
        self.batch_size = _bounded_batch(plan, image_shape)
        self._key = key
        self._reader: nn.Module | None = reader
        self._forward: Forward | None = None
        self._lock = threading.Lock()
        self._threads_before = torch.get_num_threads()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the network and give the process its number of threads back."""
        self._reader = self._forward = None
        if self.plan.kind == "cpu":
            torch.set_num_threads(self._threads_before)

    def prepare(self, first: Pixels, n_waiting: int) -> None:
        """Build the fast path and check it against float32 on the first batch.

        Parameters
        ----------
        first
            uint8, shape (n, height, width, 3), RGB: pictures of this run.
        n_waiting
            Pictures that the run has still to embed, on which ``compile="auto"`` decides.
        """
        with self._lock:
            if self._forward is None:
                self._build(self._checked(first))

    def _build(self, first: Pixels) -> None:
        reader = self._require_reader()
        exact = converted(reader, self.plan.device, torch.float32, self.plan.channels_last)
        with true_fp32():
            reference = self._run(exact, first)
        self._forward = Replicas(exact)
        if self.precision == "fp32":
            return
        dtype = DTYPES[self.precision]
        fast = converted(exact, self.plan.device, dtype, self.plan.channels_last)
        cosine = lowest_cosine(reference, self._run(fast, first))
        if cosine >= MIN_COSINE:
            self._forward = Replicas(fast)
            return
        log.warning(
            "%s features differ from fp32 (cosine %.4f, at least %s expected); running fp32",
            self.precision,
            cosine,
            MIN_COSINE,
        )
        self.precision = "fp32"

    def __call__(self, images: Pixels) -> list[Floats]:
        """Embed up to ``batch_size`` pictures.

        Parameters
        ----------
        images
            uint8, shape (n, height, width, 3), RGB.

        Returns
        -------
        features : list of float32 arrays of shape (n, d_k)
            One a tap, in the reader's order.
        """
        images = self._checked(images)
        if self._forward is None:
            self.prepare(images, len(images))
        forward = self._forward
        assert forward is not None
        if self.precision == "fp32":
            with true_fp32():
                return self._run(forward, images)
        return self._run(forward, images)

    def _run(self, forward: Forward, images: Pixels) -> list[Floats]:
        if not images.flags.writeable:
            images = images.copy()  # torch warns of memory that it may not write to
        with torch.inference_mode():
            taps = forward(torch.from_numpy(images).to(self.plan.device))
            return [_as_array(tap) for tap in taps]

    def _require_reader(self) -> nn.Module:
        if self._reader is None:
            raise DeviceError("this runner is closed; make another one for further images")
        return self._reader

    def _checked(self, images: Any) -> Pixels:
        array = np.ascontiguousarray(images)
        if array.dtype != np.uint8 or array.shape[1:] != self.image_shape or not len(array):
            raise ValueError(
                f"images must be uint8 of shape (n, {', '.join(map(str, self.image_shape))}) with "
                f"n of at least 1, got {array.dtype} of shape {array.shape}"
            )
        return array


def _as_array(tap: Tensor) -> Floats:
    array: Floats = tap.to(device="cpu", dtype=torch.float32).contiguous().numpy()
    return array


def _bounded_batch(plan: RuntimePlan, image_shape: tuple[int, int, int]) -> int:
    """Keep the activations of all concurrent batches within a quarter of the memory."""
    if not plan.probe or plan.kind != "cpu":
        return plan.batch_size
    pixels = image_shape[0] * image_shape[1]
    fitting = memory_bytes() // 4 // (pixels * _BYTES_PER_PIXEL * plan.streams)
    by_size = plan.batch_size * 224 * 224 // pixels
    return max(1, min(plan.batch_size, fitting, by_size))
