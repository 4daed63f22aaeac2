"""From a reader and a plan to the fastest forward that says what float32 says."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from featx.errors import brief
from featx.files import scratch_folder
from featx.runtime.batches import Pieces, halved, in_batches
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


class Builder:
    """Chooses precision and code for one reader, and gives them to the pieces that run it.

    Parameters
    ----------
    plan, image_shape, key
        As of `featx.runtime.Runner`.
    pieces
        Whose forward is set, and whose size is the batch that code is made for.

    Attributes
    ----------
    precision : str
        What the network multiplies in; the plan's until `build` finds that it disagrees.
    compiled : bool
        Whether code was compiled or found.
    compile_seconds : float
        Seconds that compiling or loading a package took.
    """

    def __init__(
        self, plan: RuntimePlan, image_shape: tuple[int, int, int], key: str, pieces: Pieces
    ) -> None:
        self.precision: Precision = plan.precision
        self.compiled, self.compile_seconds = False, 0.0
        self._plan, self._image_shape, self._key, self._pieces = plan, image_shape, key, pieces

    def build(self, reader: nn.Module, sample: Pixels, n_waiting: int) -> None:
        """Let `pieces` run the fastest forward that agrees with float32 on the sample."""
        exact = self._copy(reader, "fp32")
        reference = Check(sample, self._reference(exact, sample))
        if self._use_package(reference):
            return
        module, check = self._choose_precision(exact, reference)
        changed = self.precision != self._plan.precision or check is not reference
        if changed and self._use_package(check):
            return
        self._drop_package()
        if self._is_worth_compiling(sample[: self._pieces.size], n_waiting, count_layers(exact)):
            self._compile(module, check)

    def _copy(self, reader: nn.Module, precision: Precision) -> nn.Module:
        return converted(reader, self._plan.device, DTYPES[precision], self._plan.channels_last)

    def _reference(self, exact: nn.Module, sample: Pixels) -> list[Floats]:
        forward = EagerForward(exact, self._plan.device)
        size = _REFERENCE_BATCH
        while True:
            try:
                with true_fp32(), self._all_threads():
                    return in_batches(forward, size)(sample)
            except torch.OutOfMemoryError as error:
                reason = brief(error)
            size = halved(size, self._plan, reason)

    @contextlib.contextmanager
    def _all_threads(self) -> Iterator[None]:
        """Let this thread use the cores of those that wait for it."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._plan.threads if self._plan.kind == "cpu" else before)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _choose_precision(self, exact: nn.Module, check: Check) -> tuple[nn.Module, Check]:
        """Take the plan's precision if it agrees with float32 or was asked for, else float32.

        Returns the network that runs now, and what compiled code of it must agree with.
        """
        if self.precision == "fp32":
            self._pieces.set(self._uncompiled(exact))
            return exact, check
        module, forward = self._in_precision(exact)
        self._pieces.set(forward)
        cosine = check.cosine(self._pieces)
        if cosine >= MIN_COSINE:
            return module, check
        what = disagreement(self.precision, "fp32", cosine)
        if self._plan.precision_asked and cosine > -1:
            log.warning("%s; going on with %s as asked", what, self.precision)
            return module, Check(check.images, self._pieces(check.images), self.precision)
        log.warning("%s; going on with fp32", what)
        self.precision = "fp32"
        self._pieces.set(self._uncompiled(exact))
        return exact, check

    def _in_precision(self, exact: nn.Module) -> tuple[nn.Module, Forward]:
        """Build the network in the plan's precision.

        There is one form of it for a network, whatever the pictures: two that each agree with
        float32 may be further from each other, and a later run has to give the same features.
        """
        graph = self._lowered(exact) if has_depthwise(exact) else None
        if graph is not None:
            return graph, GraphForward(graph, self._pieces.size)
        module = self._copy(exact, self.precision)
        return module, self._uncompiled(module)

    def _lowered(self, exact: nn.Module) -> nn.Module | None:
        if self._plan.kind != "cpu" or self.precision != "bf16":
            return None
        try:
            return lowered(exact, self._batch_shape)
        except Exception as error:  # export raises what it likes; there is another way
            log.debug("the network cannot be lowered to a graph (%s)", brief(error))
            return None

    def _uncompiled(self, module: nn.Module) -> Forward:
        if self._plan.kind != "cuda":
            return EagerForward(module, self._plan.device)
        self._pieces.on_smaller = lambda: self._on_card(module)
        return self._on_card(module)

    def _on_card(self, module: Any) -> Forward:
        exact = self.precision == "fp32"
        return CudaForward(module, self._plan.device, self._batch_shape, exact)

    @property
    def _batch_shape(self) -> tuple[int, int, int, int]:
        return (self._pieces.size, *self._image_shape)

    def _package(self) -> Path | None:
        if not self._key or self._plan.kind != "cpu" or self._plan.compile == "off":
            return None
        return package_path(
            self._key, replace(self._plan, precision=self.precision), self._batch_shape
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
            forward = NativeForward(library, self._batch_shape, self._plan.streams)
            in_batch = in_batches(forward, self._pieces.size)
            if not check.passes(in_batch, f"compiled {self.precision}"):
                return False
        except (OSError, RuntimeError) as error:
            log.warning("the compiled network cannot be used (%s); going on without", brief(error))
            return False
        self._pieces.set(forward)
        self.compiled = True
        self.compile_seconds += time.perf_counter() - start
        return True

    def _is_worth_compiling(self, first: Pixels, n_waiting: int, n_layers: int) -> bool:
        if self._plan.compile == "off" or self._plan.kind == "mps":
            return False
        if self._plan.compile == "auto":
            start = time.perf_counter()
            self._pieces(first)
            seconds = (time.perf_counter() - start) / len(first)
            if not repays(n_waiting, seconds, self._plan.streams, n_layers, slowness()):
                return False
        if self._plan.kind == "cpu" and find_compiler() is None:
            log.warning("no C++ compiler was found; running uncompiled, which is slower")
            return False
        return True

    def _compile(self, module: nn.Module, check: Check) -> None:
        log.info("compiling the network; the next run of it starts at once")
        start = time.perf_counter()
        try:
            if self._plan.kind == "cuda":
                self._compile_for_card(module, check)
            else:
                self._compile_and_keep(module, check)
        except Exception as error:  # whatever the tool chain raises, the run goes on without it
            log.warning("compiling failed (%s); running uncompiled, which is slower", brief(error))
        self.compile_seconds = time.perf_counter() - start

    def _compile_and_keep(self, module: nn.Module, check: Check) -> None:
        with scratch_folder() as folder:
            library = folder / "network.so"
            compile_library(module, self._batch_shape, library)
            package = self._package()
            if self._adopt(library, check) and package is not None:
                try:
                    keep(library, package)
                except OSError as error:
                    log.warning("the compiled network could not be kept (%s)", brief(error))

    def _compile_for_card(self, module: nn.Module, check: Check) -> None:
        uncompiled = self._pieces.forward
        graph = compiled_for_cuda(module, self._plan.device, self._batch_shape)
        self._pieces.set(self._on_card(graph))
        try:
            self.compiled = check.passes(self._pieces, f"compiled {self.precision}")
        finally:
            if not self.compiled and not self._pieces.replaced and uncompiled is not None:
                self._pieces.set(uncompiled)
