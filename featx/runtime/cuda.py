"""The fast forward on a CUDA card: copies on one stream while another computes.

One thread launches everything for the life of a run. Launches from a fresh thread would pay for
cuDNN's plans, which belong to a thread, again and again. For one shape of a batch the whole forward
pass is recorded once as a CUDA graph and launched at one blow after that.
"""

from __future__ import annotations

import contextlib
import logging
import queue
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from featx.errors import DeviceError, brief
from featx.runtime.card import Card
from featx.runtime.checking import Forward, finite_rows, worst_row
from featx.runtime.compiling import exported, quiet
from featx.runtime.forward import Floats, Pixels, PlainForward, true_fp32
from featx.runtime.machine import is_out_of_memory
from featx.runtime.plan import Precision

log = logging.getLogger("featx")

CLOSED = "this runner is closed; make another one for further images"
_SLOTS = 2  # one batch is copied while another is computed
_WARM = 2  # passes before one is recorded: cuDNN and cuBLAS take their workspaces in them

T = TypeVar("T")


class Launcher:
    """The one thread that launches work on a card, fed by a queue.

    What a piece of work raises, whatever it is, goes to who submitted it; the thread goes on.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="featx-launch")

    def submit(self, work: Callable[..., T], *args: object) -> Future[T]:
        """Queue a piece of work.

        Raises
        ------
        DeviceError
            If the launcher is closed.
        """
        try:
            return self._pool.submit(work, *args)
        except RuntimeError:
            raise DeviceError(CLOSED) from None

    def run(self, work: Callable[..., T], *args: object) -> T:
        """Queue a piece of work and wait for it."""
        return result_of(self.submit(work, *args))

    def close(self) -> None:
        """Launch nothing more; what waits in the queue is given up."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def result_of(future: Future[T]) -> T:
    """Wait for a piece of work; one that was given up is a `DeviceError`."""
    try:
        return future.result()
    except CancelledError:
        raise DeviceError(CLOSED) from None


class _Slot:
    """Memory for one batch on its way: its pixels on the card, its vectors here."""

    def __init__(self, card: Card, shape: tuple[int, ...], vectors: list[Tensor]) -> None:
        self.pixels = card.empty(shape, torch.uint8)
        self.vectors = [card.beside(tuple(v.shape), torch.float32) for v in vectors]
        self.arrived, self.done = card.event(), card.event()


class CudaForward:
    """Runs a reader on one card for any number of threads; a short batch is padded.

    Parameters
    ----------
    module
        Reader on the card.
    batch_shape
        (batch, height, width, 3).
    exact
        Whether products must stay float32 rather than be rounded to TF32.
    card, launcher
        Of the run; the launcher outlives this forward, which batches of one shape belong to.

    Raises
    ------
    RuntimeError
        If the batch does not fit into the memory; see `featx.runtime.machine.is_out_of_memory`.
    """

    def __init__(
        self,
        module: nn.Module,
        batch_shape: tuple[int, ...],
        exact: bool,
        card: Card,
        launcher: Launcher,
    ) -> None:
        self.batch_shape = batch_shape
        self._module: Any = module
        self._exact = exact
        self._card, self._launcher = card, launcher
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        launcher.run(self._build)

    def __call__(self, images: Pixels) -> list[Floats]:
        """Embed uint8 (n, height, width, 3) with n up to the batch."""
        future = self._launcher.submit(self._launch, images)
        try:
            slot = result_of(future)
        except BaseException:  # an interruption too: the slot must not be lost
            future.add_done_callback(self._reclaim)
            raise
        try:
            self._card.wait(slot.done)  # lets go of the interpreter
            return [vectors.numpy()[: len(images)].copy() for vectors in slot.vectors]
        finally:
            self._free.put(slot)

    def _reclaim(self, future: Future[_Slot]) -> None:
        if not future.cancelled() and future.exception() is None:
            self._free.put(future.result())

    def _build(self) -> None:
        """Take memory and streams, and record the forward pass; runs in the launcher's thread."""
        card = self._card
        self._copying, self._computing = card.stream(), card.stream()
        self._pixels = card.empty(self.batch_shape, torch.uint8)
        self._vectors: list[Tensor] = []
        card.settle()  # memory was zeroed on another stream
        for _ in range(_WARM):
            self._on_computing(self._warm)
        card.settle()
        for _ in range(_SLOTS):
            self._free.put(_Slot(card, self.batch_shape, self._vectors))
        card.settle()
        self._replay = self._recorded()

    def _warm(self) -> None:
        taps = self._module(self._pixels)
        self._vectors = [torch.zeros_like(tap, dtype=torch.float32) for tap in taps]

    def _forward(self) -> None:
        """From the pixels in their place to the vectors in theirs."""
        for vectors, tap in zip(self._vectors, self._module(self._pixels), strict=True):
            vectors.copy_(tap)

    def _recorded(self) -> Callable[[], None]:
        """The forward pass as a graph; as it is where the network cannot be recorded."""
        self._card.release()  # the recording has memory of its own
        try:
            with self._products():
                return self._card.capture(self._forward, self._computing)
        except Exception as error:  # what it raises depends on the network
            if is_out_of_memory(error):
                raise
            log.info("the network runs without a CUDA graph (%s)", brief(error))
        self._card.settle()
        return self._forward

    def _products(self) -> contextlib.AbstractContextManager[None]:
        return true_fp32() if self._exact else contextlib.nullcontext()

    def _on_computing(self, work: Callable[[], None]) -> None:
        with self._products():
            self._card.enqueue(self._computing, work)

    def _launch(self, images: Pixels) -> _Slot:
        """Queue one batch on the card; runs in the launcher's thread."""
        slot = self._free.get()
        try:
            self._start(slot, images)
        except BaseException:
            self._free.put(slot)
            raise
        return slot

    def _start(self, slot: _Slot, images: Pixels) -> None:
        card, n = self._card, len(images)
        pixels = torch.from_numpy(images if images.flags.writeable else images.copy())

        def bring() -> None:
            slot.pixels[:n].copy_(pixels, non_blocking=True)

        def embed() -> None:
            self._pixels.copy_(slot.pixels)
            self._replay()
            for here, there in zip(slot.vectors, self._vectors, strict=True):
                here.copy_(there, non_blocking=True)

        card.follow(self._copying, slot.done)  # who took it before may have left early
        card.enqueue(self._copying, bring)
        card.record(slot.arrived, self._copying)
        card.follow(self._computing, slot.arrived)
        try:
            self._on_computing(embed)
        finally:  # what was started before an error may still read the slot
            card.record(slot.done, self._computing)


def compiled_for_cuda(
    module: nn.Module, device: torch.device, batch_shape: tuple[int, ...]
) -> Callable[..., Tensor]:
    """Export `module` and compile it, without Inductor's CUDA graphs: `CudaForward` records one.

    The compilation itself runs at the first call.
    """
    with quiet(), torch.no_grad():
        graph = exported(module, batch_shape, str(device)).module()
    return torch.compile(graph, dynamic=False, mode="max-autotune-no-cudagraphs")


# How far two ways to run one network in one precision may be apart: a row's relative error. They
# differ in the order of sums alone, which a batch of another size changes as well.
NEAR = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}


class OnCard:
    """Makes forwards for one card, all of them launched by the same thread.

    Parameters
    ----------
    card
        The card, or what a test puts in its place.
    name
        The device as the plan names it.
    """

    def __init__(self, card: Card, name: str) -> None:
        self._card, self._name = card, name
        self._launcher = Launcher()

    def forward(
        self, module: Any, precision: Precision, sample: Pixels, batch_shape: tuple[int, ...]
    ) -> Forward:
        """Make the forward of a network on the card.

        Where the fast path raises or disagrees on the first batch, one line says so and the plain
        one is taken.

        Parameters
        ----------
        module
            Reader on the card, in `precision`.
        sample
            uint8, shape (n, height, width, 3): up to a batch of it is compared.
        batch_shape
            (batch, height, width, 3).

        Raises
        ------
        RuntimeError
            If the batch does not fit into the memory.
        """
        exact, first = precision == "fp32", sample[: batch_shape[0]]
        plain = self.plain(module, precision)
        expected = plain(first)
        try:
            fast = CudaForward(module, batch_shape, exact, self._card, self._launcher)
            difference = _difference(expected, fast(first))
        except DeviceError:
            raise
        except Exception as error:  # whatever it is, the plain path does without what raised it
            if is_out_of_memory(error):
                raise
            log.warning(
                "the fast path on %s failed (%s); going on with the plain one, which is slower",
                self._name,
                brief(error),
            )
            return plain
        if difference <= NEAR[precision]:
            return fast
        log.warning(
            "the fast path on %s differs from the plain one (relative error %.1e, at most %.0e "
            "expected); going on with the plain one, which is slower",
            self._name,
            difference,
            NEAR[precision],
        )
        return plain

    def plain(self, module: nn.Module, precision: Precision) -> PlainForward:
        """Make the plain forward of a network on the card."""
        return PlainForward(module, self._card.device, precision == "fp32")

    def close(self) -> None:
        """End the thread that launches, and hand the memory back."""
        self._launcher.close()
        self._card.release()


def _difference(expected: list[Floats], found: list[Floats]) -> float:
    """Largest relative error of a row; infinite where one side alone is not finite."""
    here, there = finite_rows(expected), finite_rows(found)
    if not np.array_equal(here, there):
        return float("inf")
    return worst_row([tap[here] for tap in expected], [tap[here] for tap in found])
