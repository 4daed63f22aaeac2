"""From a reader and a plan to the fastest forward that says what float32 says."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from featx.errors import DeviceError, brief
from featx.files import scratch_folder
from featx.runtime.batches import Pieces, in_batches
from featx.runtime.card import Card
from featx.runtime.checking import MIN_COSINE, Check, Forward, Rescuing, disagreement, worst_row
from featx.runtime.compiling import (
    compile_library,
    count_layers,
    find_compiler,
    quiet,
    repays,
    slowness,
)
from featx.runtime.cuda import compiled_for_cuda
from featx.runtime.forms import REFERENCE_BATCH, Forms, Network, opened
from featx.runtime.forward import EagerForward, Floats, Pixels, converted, true_fp32
from featx.runtime.machine import halved, is_out_of_memory
from featx.runtime.native import NativeForward, is_sound, keep, package_path
from featx.runtime.plan import Precision, RuntimePlan

log = logging.getLogger("featx")

_ON_CPU = 3  # pictures of the check against the CPU, which no fault of a card can pass
_TRUE = 1e-4  # relative error of a row in float32, between two devices
_MOST_RESCUED = 0.25  # share of pictures that may overflow in float16 before it is given up


class Builder:
    """Chooses precision and code for one reader, and gives them to the pieces that run it.

    Parameters
    ----------
    plan, image_shape, key
        As of `featx.runtime.Runner`.
    pieces
        Whose forward is set, and whose size is the batch that code is made for.
    card
        Where the plan is for one.

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
        self,
        plan: RuntimePlan,
        image_shape: tuple[int, int, int],
        key: str,
        pieces: Pieces,
        card: Card | None,
    ) -> None:
        self.precision: Precision = plan.precision
        self.compiled, self.compile_seconds = False, 0.0
        self._plan, self._key, self._pieces = plan, key, pieces
        self._forms = Forms(plan, image_shape, key, pieces, card)

    def close(self) -> None:
        """End what runs beside the network."""
        self._forms.close()

    def build(self, reader: Network, sample: Pixels, n_waiting: int) -> None:
        """Let `pieces` run the fastest forward that agrees with float32 on the sample.

        Where something of it does not fit into the memory, batches become smaller.

        Raises
        ------
        DeviceError
            If not even one picture fits, or the device computes something else than the CPU.
        """
        while True:
            size = self._pieces.size
            try:
                self._build(reader, sample, n_waiting)
                return
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = brief(error)
            self._pieces.close()
            self._pieces.halve(size, reason)

    def _build(self, network: Network, sample: Pixels, n_waiting: int) -> None:
        if self._plan.settled and self._plan.kind == "cpu":
            self._build_settled(network, sample)
            return
        reader = opened(network)
        exact, reference = self._exact(reader, sample)
        if self._use_package(reference):
            return
        module, check = self._choose_precision(exact, reference)
        self._forms.forget_trace()
        changed = self.precision != self._plan.precision or check is not reference
        if changed and self._use_package(check):
            return
        self._drop_package()
        if self._is_worth_compiling(sample[: self._pieces.size], n_waiting, count_layers(exact)):
            self._compile(module, exact, check)

    def _build_settled(self, network: Network, sample: Pixels) -> None:
        """Take what an earlier run left, else the form of the precision, and try nothing."""
        package = self._package()
        if package is not None and is_sound(package) and self._adopt(package, None):
            return
        forward = self._forms.kept(self.precision)
        if forward is None:
            exact = self._forms.copy(opened(network), "fp32")
            _, forward = self._forms.in_precision(exact, self.precision, sample)
            self._forms.forget_trace()
        self._pieces.set(forward)

    def _exact(self, reader: nn.Module, sample: Pixels) -> tuple[nn.Module, Check]:
        """Copy the network to the device in float32, and see whether it says what a CPU says.

        Rounding to TF32, a kernel that is wrong and a memory layout that a backend does not take
        would otherwise pass unseen, for they change whatever is computed on the device alike.
        """
        exact = self._forms.copy(reader, "fp32")
        check = Check(sample, self._reference(self._forms.plain(exact), sample))
        if self._plan.kind == "cpu":
            return exact, check
        error = self._error_of(reader, check)
        if error > _TRUE and self._forms.channels_last:
            log.warning("%s computes channels last wrongly; trying it without", self._plan.device)
            self._forms.channels_last = False
            exact = self._forms.copy(reader, "fp32")
            check = Check(sample, self._reference(self._forms.plain(exact), sample))
            error = self._error_of(reader, check)
        if error > _TRUE:
            raise DeviceError(
                f"{self._plan.device} computes other features than the CPU in fp32 (relative error "
                f"{error:.1e}, at most {_TRUE:.0e} expected); use --device cpu, and see whether "
                "another driver or version of torch agrees"
            )
        return exact, check

    def _error_of(self, reader: nn.Module, check: Check) -> float:
        """Relative error of the reference's first rows against the CPU."""
        on_cpu = converted(reader, torch.device("cpu"), torch.float32, channels_last=False)
        expected = self._reference(EagerForward(on_cpu), check.images[:_ON_CPU])
        return worst_row(expected, [tap[:_ON_CPU] for tap in check.reference])

    def _reference(self, forward: Forward, sample: Pixels) -> list[Floats]:
        size = REFERENCE_BATCH
        while True:
            try:
                with true_fp32(on_card=self._plan.kind != "cpu"), self._all_threads():
                    return in_batches(forward, size)(sample)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = brief(error)
            self._pieces.release()
            size = halved(size, self._plan.device, reason)

    @contextlib.contextmanager
    def _all_threads(self) -> Iterator[None]:
        """Let this thread use the cores of those that wait for it."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._plan.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _choose_precision(self, exact: nn.Module, check: Check) -> tuple[nn.Module, Check]:
        """Take the first precision that agrees with float32, or the one that was asked for.

        Returns the network that runs now, and what compiled code of it must agree with.
        """
        candidates = (self._plan.precision, *self._plan.fallbacks)
        for precision, following in zip(candidates, (*candidates[1:], None), strict=True):
            self.precision = precision
            module, forward = self._forms.in_precision(exact, self.precision, check.images)
            self._pieces.set(forward)
            if precision == "fp32":
                break
            cosine = check.cosine(self._pieces)
            rescued = forward.share if isinstance(forward, Rescuing) else 0.0
            if cosine >= MIN_COSINE and (rescued <= _MOST_RESCUED or following is None):
                return module, check
            what = disagreement(precision, "fp32", cosine)
            if cosine >= MIN_COSINE:
                what = f"{rescued:.0%} of the pictures overflow in {precision}"
            if following is None and cosine > -1:
                log.warning("%s; going on with %s as asked", what, precision)
                return module, Check(check.images, self._pieces(check.images), precision)
            log.warning("%s; going on with %s", what, following or "fp32")
        if self.precision != "fp32":
            self.precision = "fp32"
            module, forward = self._forms.in_precision(exact, self.precision, check.images)
            self._pieces.set(forward)
        return module, check

    def _package(self) -> Path | None:
        if not self._key or self._plan.kind != "cpu" or self._plan.compile == "off":
            return None
        return package_path(
            self._key, replace(self._plan, precision=self.precision), self._forms.batch_shape
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

    def _adopt(self, library: Path, check: Check | None) -> bool:
        start = time.perf_counter()
        try:
            forward = NativeForward(library, self._forms.batch_shape, self._plan.streams)
            in_batch = in_batches(forward, self._pieces.size)
            if check is not None and not check.passes(in_batch, f"compiled {self.precision}"):
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
        if self._plan.kind == "cuda":  # not measured to pay there: a graph launches at one blow
            return self._plan.compile == "on"
        if self._plan.compile == "auto":
            start = time.perf_counter()
            self._pieces(first)
            seconds = (time.perf_counter() - start) / len(first)
            if not repays(n_waiting, seconds, self._plan.streams, n_layers, slowness()):
                return False
        if find_compiler() is None:
            log.warning("no C++ compiler was found; running uncompiled, which is slower")
            return False
        return True

    def _compile(self, module: nn.Module, exact: nn.Module, check: Check) -> None:
        log.info("compiling the network; the next run of it starts at once")
        start = time.perf_counter()
        try:
            if self._plan.kind == "cuda":
                self._compile_for_card(module, exact, check)
            else:
                self._compile_and_keep(module, check)
        except Exception as error:  # whatever the tool chain raises, the run goes on without it
            log.warning("compiling failed (%s); running uncompiled, which is slower", brief(error))
        self.compile_seconds = time.perf_counter() - start

    def _compile_and_keep(self, module: nn.Module, check: Check) -> None:
        with scratch_folder() as folder:
            library = folder / "network.so"
            compile_library(module, self._forms.batch_shape, library)
            package = self._package()
            if self._adopt(library, check) and package is not None:
                try:
                    keep(library, package)
                except OSError as error:
                    log.warning("the compiled network could not be kept (%s)", brief(error))

    def _compile_for_card(self, module: nn.Module, exact: nn.Module, check: Check) -> None:
        uncompiled = self._pieces.forward
        graph = compiled_for_cuda(module, self._forms.device, self._forms.batch_shape)
        with quiet():  # the compilation itself runs at the first call, which is in here
            forward = self._forms.on_device(graph, exact, self.precision, check.images)
        self._pieces.set(forward)
        try:
            self.compiled = check.passes(self._pieces, f"compiled {self.precision}")
        finally:
            if not self.compiled and not self._pieces.replaced and uncompiled is not None:
                self._pieces.set(uncompiled)
