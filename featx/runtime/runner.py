"""The forward pass: uint8 pictures in, float32 vectors out, as fast as the plan allows."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import torch

from featx.errors import DeviceError, FeatxError
from featx.runtime.batches import Pieces, bounded_batch
from featx.runtime.building import Builder
from featx.runtime.card import Card
from featx.runtime.cuda import CLOSED
from featx.runtime.devices import card_failure, open_device
from featx.runtime.forms import Network
from featx.runtime.forward import Floats, Pixels, true_fp32
from featx.runtime.machine import kept_memory
from featx.runtime.plan import Precision, RuntimePlan

# A precision is chosen for a whole source, and in a few per cent of its pictures it may fail.
_CHECKED_SHARE, _MOST_CHECKED = 32, 64
_BATCHES_OF_A_CARD = 4  # two on the card, one that waits for it, one that is being filled


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
        shape (n, d_k), or what loads it, called where no earlier run left enough. It is read,
        never changed.
    plan
        From :func:`~featx.runtime.plan_runtime`.
    image_shape
        (height, width, 3) of every picture.
    key
        Text that names architecture, weights, taps and normalisation; compiled packages are
        kept under it. Empty: none is kept or looked for.
    card
        What runs a plan for a card: by default the card that it names.

    Raises
    ------
    DeviceError
        If the card cannot be used.
    """

    def __init__(
        self,
        reader: Network,
        plan: RuntimePlan,
        image_shape: tuple[int, int, int],
        key: str = "",
        card: Card | None = None,
    ) -> None:
        self.plan = plan
        self.image_shape = image_shape
        if card is None and plan.kind == "cuda":
            open_device(plan.device)
            card = Card(plan.device)
        self._card = card
        self._pieces = Pieces(plan, bounded_batch(plan, image_shape, card), card)
        self._builder = Builder(plan, image_shape, key, self._pieces, card)
        self._reader: Network | None = reader
        self._lock = threading.RLock()
        self._ready = False  # not whether there is a forward: none is while batches are halved
        self._threads_before = torch.get_num_threads()
        self._memory = contextlib.ExitStack()

    @property
    def precision(self) -> Precision:
        """The precision that the network really multiplies in; it belongs to the fingerprint."""
        return self._builder.precision

    @property
    def compiled(self) -> bool:
        """True if compiled code runs."""
        return self._builder.compiled and not self._pieces.replaced

    @property
    def compile_seconds(self) -> float:
        """Seconds that compiling or loading a package took."""
        return self._builder.compile_seconds

    @property
    def batch_size(self) -> int:
        """Images in one forward; a call may bring more or fewer."""
        return self._pieces.size

    @property
    def most_batches(self) -> int | None:
        """How many batches of a run make sense at a time; None: one more than there are threads."""
        return None if self._card is None else _BATCHES_OF_A_CARD

    def allocate(self, shape: tuple[int, ...]) -> Pixels:
        """Memory for pictures, uint8 of `shape`, from which a card copies fastest."""
        return np.zeros(shape, np.uint8) if self._card is None else self._card.pictures(shape)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the network and give the process its number of threads back."""
        self._reader = None
        self._pieces.close()
        self._builder.close()
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
            if self._ready:
                return
            if self._reader is None:
                raise DeviceError(CLOSED)
            if self.plan.kind == "cpu":
                self._memory.enter_context(kept_memory())
            with self._forward_pass():
                self._builder.build(self._reader, self._checked(sample), n_waiting)
            self._reader, self._ready = None, True

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
            If not even one picture fits into the card's memory, or the card fails.
        """
        images = self._checked(images)
        if not self._ready:
            self.prepare(images[: self.batch_size], len(images))
        with self._forward_pass():
            return self._pieces(images)

    @contextlib.contextmanager
    def _forward_pass(self) -> Iterator[None]:
        """Keep float32 what is float32, and say in one line what a card's own errors mean."""
        try:
            with true_fp32(on_card=self.plan.kind != "cpu"):
                yield
        except RuntimeError as error:
            failure = None
            if self.plan.kind == "cuda" and not isinstance(error, FeatxError):
                failure = card_failure(self.plan.device, error)
            if failure is None:
                raise
            raise failure from None

    def _checked(self, images: object) -> Pixels:
        array = np.ascontiguousarray(images)
        if array.dtype != np.uint8 or array.shape[1:] != self.image_shape or not len(array):
            raise ValueError(
                f"images must be uint8 of shape (n, {', '.join(map(str, self.image_shape))}) with "
                f"n of at least 1, got {array.dtype} of shape {array.shape}"
            )
        return array
