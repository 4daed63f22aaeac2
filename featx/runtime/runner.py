"""The forward pass: uint8 pictures in, float32 vectors out, as fast as the plan allows."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from featx.errors import DeviceError
from featx.runtime.allocator import kept_memory
from featx.runtime.batches import bounded_batch, halved, in_batches, joined
from featx.runtime.checking import MIN_COSINE, Check, Forward, disagreement
from featx.runtime.compiling import (
    compile_library,
    count_layers,
    find_compiler,
    has_depthwise,
    repays,
    slowness,
)
from featx.runtime.cuda import CudaForward, compiled_for_cuda
from featx.runtime.fast import (
    EagerForward,
    Floats,
    GraphForward,
    Pixels,
    converted,
    true_fp32,
)
from featx.runtime.lowering import lowered
from featx.runtime.native import NativeForward
from featx.runtime.packages import is_sound, keep, package_path
from featx.runtime.plan import DTYPES, Precision, RuntimePlan

log = logging.getLogger("featx")

_REFERENCE_BATCH = 32  # the float32 reference must fit where a larger fast batch will run
# A precision is chosen for a whole source, and in a few per cent of its pictures it may fail.
_CHECKED_SHARE, _MOST_CHECKED = 32, 64


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
        Images in one forward; a call may bring more or fewer.
    """

    def __init__(
        self, reader: nn.Module, plan: RuntimePlan, image_shape: tuple[int, int, int], key: str = ""
    ) -> None:
        self.plan = plan
        self.image_shape = image_shape
        self.precision: Precision = plan.precision
        self.compiled = False
        self.compile_seconds = 0.0
        self.batch_size = bounded_batch(plan, image_shape)
        self._key = key
        self._reader: nn.Module | None = reader
        self._forward: Forward | None = None
        self._on_smaller: nn.Module | None = None  # what runs when the card turns out too small
        self._lock = threading.RLock()
        self._threads_before = torch.get_num_threads()
        self._memory = contextlib.ExitStack()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the network and give the process its number of threads back."""
        self._reader = self._forward = self._on_smaller = None
        self._memory.close()
        if self.plan.kind == "cpu":
            torch.set_num_threads(self._threads_before)

    def n_to_check(self, n_waiting: int) -> int:
        """Pictures of a run, from all over it, that `prepare` wants to see.

        None, and the first batch will do, where the precision is not to be given up.
        """
        if self.precision == "fp32" or self.plan.precision_asked:
            return 0
        wanted = max(self.batch_size, n_waiting // _CHECKED_SHARE)
        return min(wanted, _MOST_CHECKED, n_waiting)

    def prepare(self, sample: Pixels, n_waiting: int) -> None:
        """Build the fast path and check it against float32 on a sample of the run.

        Parameters
        ----------
        sample
            uint8, shape (n, height, width, 3), RGB: pictures of this run.
        n_waiting
            Pictures that the run has still to embed, on which ``compile="auto"`` decides.
        """
        with self._lock:
            if self._forward is None:
                if self.plan.kind == "cpu":
                    self._memory.enter_context(kept_memory())
                self._build(self._checked(sample), n_waiting)
                self._reader = None

    def __call__(self, images: Pixels) -> list[Floats]:
        """Embed pictures.

        Parameters
        ----------
        images
            uint8, shape (n, height, width, 3), RGB, with n of at least 1.

        Returns
        -------
        features : list of float32 arrays of shape (n, d_k)
            One a tap, in the reader's order.

        Raises
        ------
        ValueError
            If the pictures have another shape or type.
        DeviceError
            If not even one picture fits into the card's memory.
        """
        images = self._checked(images)
        if self._forward is None:
            self.prepare(images[: self.batch_size], len(images))
        return self._in_pieces(images)

    def _build(self, sample: Pixels, n_waiting: int) -> None:
        exact = self._copy(self._require_reader(), "fp32")
        reference = Check(sample, self._reference(exact, sample))
        if self._use_package(reference):
            return
        module, check = self._choose_precision(exact, reference)
        changed = self.precision != self.plan.precision or check is not reference
        if changed and self._use_package(check):
            return
        self._drop_package()
        if self._is_worth_compiling(sample[: self.batch_size], n_waiting, count_layers(exact)):
            self._compile(module, check)

    def _copy(self, reader: nn.Module, precision: Precision) -> nn.Module:
        return converted(reader, self.plan.device, DTYPES[precision], self.plan.channels_last)

    def _reference(self, exact: nn.Module, sample: Pixels) -> list[Floats]:
        forward = EagerForward(exact, self.plan.device)
        size = _REFERENCE_BATCH
        while True:
            try:
                with true_fp32(), self._all_threads():
                    return in_batches(forward, size)(sample)
            except torch.OutOfMemoryError as error:
                reason = _line(error)
            size = halved(size, self.plan, reason)

    @contextlib.contextmanager
    def _all_threads(self) -> Iterator[None]:
        """Let this thread use the cores of those that wait for it."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.plan.threads if self.plan.kind == "cpu" else before)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _choose_precision(self, exact: nn.Module, check: Check) -> tuple[nn.Module, Check]:
        """Take the plan's precision if it agrees with float32 or was asked for, else float32.

        Returns the network that runs now, and what compiled code of it must agree with.
        """
        if self.precision == "fp32":
            self._forward = self._uncompiled(exact)
            return exact, check
        module, self._forward = self._in_precision(exact)
        cosine = check.cosine(self._in_pieces)
        if cosine >= MIN_COSINE:
            return module, check
        what = disagreement(self.precision, "fp32", cosine)
        if self.plan.precision_asked and cosine > -1:
            log.warning("%s; going on with %s as asked", what, self.precision)
            return module, Check(check.images, self._in_pieces(check.images), self.precision)
        log.warning("%s; going on with fp32", what)
        self.precision = "fp32"
        self._forward = self._uncompiled(exact)
        return exact, check

    def _in_precision(self, exact: nn.Module) -> tuple[nn.Module, Forward]:
        """Build the network in the plan's precision.

        There is one form of it for a network, whatever the pictures: two that each agree with
        float32 may be further from each other, and a later run has to give the same features.
        """
        graph = self._lowered(exact) if has_depthwise(exact) else None
        if graph is not None:
            return graph, GraphForward(graph, self.batch_size)
        module = self._copy(exact, self.precision)
        return module, self._uncompiled(module)

    def _lowered(self, exact: nn.Module) -> nn.Module | None:
        if self.plan.kind != "cpu" or self.precision != "bf16":
            return None
        try:
            return lowered(exact, self._batch_shape)
        except Exception as error:  # export raises what it likes; there is another way
            log.debug("the network cannot be lowered to a graph (%s)", _line(error))
            return None

    def _uncompiled(self, module: nn.Module) -> Forward:
        if self.plan.kind != "cuda":
            return EagerForward(module, self.plan.device)
        self._on_smaller = module
        return self._on_card(module)

    def _on_card(self, module: Any) -> Forward:
        exact = self.precision == "fp32"
        return CudaForward(module, self.plan.device, self._batch_shape, exact)

    @property
    def _batch_shape(self) -> tuple[int, int, int, int]:
        return (self.batch_size, *self.image_shape)

    def _package(self) -> Path | None:
        if not self._key or self.plan.kind != "cpu" or self.plan.compile == "off":
            return None
        return package_path(
            self._key, replace(self.plan, precision=self.precision), self._batch_shape
        )

    def _use_package(self, check: Check) -> bool:
        """Take the package of an earlier run if it is there and agrees."""
        package = self._package()
        return package is not None and is_sound(package) and self._adopt(package, check)

    def _drop_package(self) -> None:
        """Remove the package that was not taken although its precision runs."""
        package = self._package()
        if package is not None:
            package.unlink(missing_ok=True)

    def _adopt(self, library: Path, check: Check) -> bool:
        start = time.perf_counter()
        try:
            forward = NativeForward(library, self._batch_shape, self.plan.streams)
            if not check.passes(in_batches(forward, self.batch_size), f"compiled {self.precision}"):
                return False
        except (OSError, RuntimeError) as error:
            log.warning("the compiled network cannot be used (%s); going on without", _line(error))
            return False
        self._forward, self.compiled = forward, True
        self.compile_seconds += time.perf_counter() - start
        return True

    def _is_worth_compiling(self, first: Pixels, n_waiting: int, n_layers: int) -> bool:
        if self.plan.compile == "off" or self.plan.kind == "mps":
            return False
        if self.plan.compile == "auto":
            start = time.perf_counter()
            self._in_pieces(first)
            seconds = (time.perf_counter() - start) / len(first)
            if not repays(n_waiting, seconds, self.plan.streams, n_layers, slowness()):
                return False
        if self.plan.kind == "cpu" and find_compiler() is None:
            log.warning("no C++ compiler was found; running uncompiled, which is slower")
            return False
        return True

    def _compile(self, module: nn.Module, check: Check) -> None:
        log.info("compiling the network; the next run of it starts at once")
        start = time.perf_counter()
        try:
            if self.plan.kind == "cuda":
                self._compile_for_card(module, check)
            else:
                self._compile_and_keep(module, check)
        except Exception as error:  # whatever the tool chain raises, the run goes on without it
            log.warning("compiling failed (%s); running uncompiled, which is slower", _line(error))
        self.compile_seconds = time.perf_counter() - start

    def _compile_and_keep(self, module: nn.Module, check: Check) -> None:
        with tempfile.TemporaryDirectory(prefix="featx-", ignore_cleanup_errors=True) as folder:
            library = Path(folder) / "network.so"
            compile_library(module, self._batch_shape, library)
            package = self._package()
            if self._adopt(library, check) and package is not None:
                try:
                    keep(library, package)
                except OSError as error:
                    log.warning("the compiled network could not be kept (%s)", _line(error))

    def _compile_for_card(self, module: nn.Module, check: Check) -> None:
        uncompiled = self._forward
        graph = compiled_for_cuda(module, self.plan.device, self._batch_shape)
        try:
            self._forward = self._on_card(graph)
            self.compiled = check.passes(self._in_pieces, f"compiled {self.precision}")
        finally:
            if not self.compiled:
                self._forward = uncompiled

    def _in_pieces(self, images: Pixels) -> list[Floats]:
        """Run batches of at most `batch_size`, which shrinks where the card is too small."""
        done: list[list[Floats]] = []
        start = 0
        while start < len(images):
            with self._lock:  # the two change together
                forward, size = self._forward, self.batch_size
            if forward is None:
                self._require_reader()
                raise AssertionError("prepare was not called")
            try:
                done.append(forward(images[start : start + size]))
                start += size
                continue
            except torch.OutOfMemoryError as error:
                reason = _line(error)
            self._halve(size, reason)
        return joined(done)

    def _halve(self, size: int, reason: str) -> None:
        with self._lock:
            if self.batch_size != size:
                return  # another thread has done it
            self.batch_size = halved(size, self.plan, reason)
            log.warning("out of memory on %s; batches of %d", self.plan.device, self.batch_size)
            if self._on_smaller is not None:
                torch.cuda.empty_cache()
                self._forward, self.compiled = self._on_card(self._on_smaller), False

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


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}"
