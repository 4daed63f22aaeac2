"""From the bytes of pictures to answers: features, label, probabilities, nearest images."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.cache.ids import KEY_DTYPE
from featx.errors import ImageError
from featx.explaining import Explainer, Explanation
from featx.extraction.threads import Outcome
from featx.images import Pixels
from featx.model import Model
from featx.model.network import ModelNetwork
from featx.model.prediction import label_rows
from featx.model.references import same_options
from featx.model.rowfile import Row
from featx.runtime import Runner, enter_worker_thread
from featx.serve.guard import Refusal
from featx.serve.neighbours import TrainingRows
from featx.serve.recent import RecentPictures

_GPU_BATCH = 32  # a batch is padded to its full size, so a large one delays a single picture
_TRIALS = 2


class Embedder(ModelNetwork):
    """A loaded network in the state that a model was trained with, for any number of threads.

    One picture that comes alone must not wait for the forward pass of a padded batch, so there are
    two of them, and `__call__` takes what is faster for the number of pictures at hand.

    Parameters
    ----------
    model
        Says which network, preprocessing and tap.
    options
        Fields of `featx.extraction.options.ExtractOptions` that change no value.

    Raises
    ------
    ModelError, DriftError
        If the features would be others than those of the training.
    """

    def __init__(self, model: Model, options: dict[str, Any]) -> None:
        super().__init__(model, {**same_options(model, options), "progress": False})
        if self.plan.kind != "cpu" and self.plan.probe:
            self.plan = replace(self.plan, batch_size=_GPU_BATCH)
        one = replace(self.plan, batch_size=1, probe=False, compile="auto")
        self._many, self._one = self.runner(self.plan), self.runner(one)
        self._alone = 1  # up to so many pictures go one by one
        # In a thread of its own, as the pictures will be, so that it is timed as it will run.
        with ThreadPoolExecutor(1, initializer=enter_worker_thread) as pool:
            pool.submit(self._check_both).result()

    @property
    def batch_size(self) -> int:
        """Pictures that are best embedded together."""
        return max(1, self._many.batch_size // len(self.preprocess.views))

    @property
    def precision(self) -> str:
        """The precision that the network multiplies in."""
        return self._many.precision

    @property
    def compiled(self) -> bool:
        """True if compiled code runs full batches."""
        return self._many.compiled

    def __call__(self, drawn: list[Pixels]) -> NDArray[np.float32]:
        """Embed what `draw` gave: float32, shape (n, n_features), of the model's taps."""
        n_pixels = sum(map(len, drawn))
        return self.vectors(self._one if n_pixels <= self._alone else self._many, drawn)

    def close(self) -> None:
        """Free the network."""
        self._one.close()
        self._many.close()

    def _check_both(self) -> None:
        """Compare the reference images by both forward passes, then see which is fast for what."""
        drawn = self.drawn_references()
        sample = np.concatenate(drawn)
        for runner, first in ((self._one, sample[:1]), (self._many, sample)):
            runner.prepare(first, len(first))
            self.require_same(runner, drawn)
        self._alone = self._break_even(sample)
        self.remember(Outcome(np.zeros(0, KEY_DTYPE)), self.spec(self.precision))

    def _break_even(self, sample: Pixels) -> int:
        """Up to how many pictures one after the other are faster than a padded batch."""
        size = self._many.batch_size
        full = np.resize(sample, (size, *sample.shape[1:]))
        alone, together = _seconds(self._one, full[:1]), _seconds(self._many, full)
        return int(np.clip(together / alone, 1, size - 1)) if size > 1 else 1


def _seconds(runner: Runner, pixels: Pixels) -> float:
    taken = []
    for _ in range(_TRIALS):
        start = time.perf_counter()
        runner(pixels)
        taken.append(time.perf_counter() - start)
    return min(taken)


MOST_NEAREST = 20
_MOST_EXPLAINED = 8  # pictures that wait for their map; one is made at a time


@dataclass(frozen=True)
class Answer:
    """The answer for one picture.

    Parameters
    ----------
    row
        Label, probabilities and abstaining, under the names that ``featx predict`` writes.
    drawn
        What the network saw.
    nearest
        Training rows with their distances, nearest first; empty without training rows.
    unfamiliar
        Whether the nearest is further than is usual; None without training rows.
    """

    row: Row
    drawn: Pixels = field(repr=False)
    nearest: list[tuple[int, float]] = field(default_factory=list)
    unfamiliar: bool | None = None


@dataclass(frozen=True)
class Labeller:
    """A model, its network, what it was trained on, and who is told of every picture."""

    model: Model
    embedder: Embedder
    training: TrainingRows | None
    recent: RecentPictures | None = None

    def __call__(self, drawn: list[Pixels]) -> list[Answer | ImageError]:
        """Answer for each picture that `Embedder.draw` drew."""
        X = self.embedder(drawn)
        finite = np.isfinite(X).all(axis=1)
        answers: list[Answer | ImageError] = [
            ImageError("the network gives NaN or infinite values for it")
        ] * len(drawn)
        if finite.any():
            found = self._answers(X[finite], [drawn[k] for k in np.flatnonzero(finite)])
            for k, answer in zip(np.flatnonzero(finite), found, strict=True):
                answers[k] = answer
        return answers

    def _answers(self, X: Any, drawn: list[Pixels]) -> list[Answer]:
        rows, training = label_rows(self.model, X), self.training
        if training is None:
            return [Answer(row, one) for row, one in zip(rows, drawn, strict=True)]
        near, distances = training.nearest(X, MOST_NEAREST)
        if self.recent is not None:
            self.recent.add(X, distances[:, 0])
        return [
            Answer(
                row,
                drawn[k],
                nearest=list(zip(near[k].tolist(), distances[k].tolist(), strict=True)),
                unfamiliar=bool(distances[k, 0] > training.limit),
            )
            for k, row in enumerate(rows)
        ]


class Maps:
    """Explains pictures one at a time, by a network of its own that the first picture loads.

    Parameters
    ----------
    model
        What is served.
    options
        `weights` and `backbone`, where they are not None.
    """

    def __init__(self, model: Model, options: dict[str, Any]) -> None:
        self.model = model
        self.options = {name: options.get(name) for name in ("weights", "backbone")}
        self._explainer: Explainer | None = None
        self._thread = ThreadPoolExecutor(1, "featx-maps", initializer=enter_worker_thread)
        self._places = threading.BoundedSemaphore(_MOST_EXPLAINED)

    async def __call__(self, drawn: Pixels, label: str | None, against: str | None) -> Explanation:
        """Explain one picture that `Embedder.draw` drew.

        Raises
        ------
        Refusal
            503 if too many wait.
        FeatxError
            If the model or the class cannot be explained.
        """
        if not self._places.acquire(blocking=False):
            raise Refusal(503, "busy: too many pictures wait for their map", retry_after=2)
        work = self._thread.submit(self._explain, drawn, label, against)
        # Its place is taken until it is done, also if nobody waits for it any more.
        work.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(work)

    def close(self) -> None:
        """End the thread; what waits is given up."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _explain(self, drawn: Pixels, label: str | None, against: str | None) -> Explanation:
        if self._explainer is None:
            self._explainer = Explainer(self.model, **self.options)
        return self._explainer.of_drawn(drawn, label, against)
