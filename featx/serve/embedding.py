"""From the bytes of pictures to the features of a model, by the way that `extract` goes."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.cache.format import tap_names
from featx.images import Pixels, decode, draw_pixels
from featx.model import Model
from featx.model.references import plain_image, reference_images, require_same_vectors, same_options
from featx.run.options import ExtractOptions
from featx.run.prepared import Run
from featx.runtime import Runner, enter_worker_thread

_GPU_BATCH = 32  # a batch is padded to its full size, so a large one delays a single picture
_TRIALS = 2


class Embedder(Run):
    """A loaded network in the state that a model was trained with, for any number of threads.

    One picture that comes alone must not wait for the forward pass of a padded batch, so there are
    two of them, and `__call__` takes what is faster for the number of pictures at hand.

    Parameters
    ----------
    model
        Says which network, preprocessing and tap.
    options
        Fields of `featx.run.options.ExtractOptions` that change no value.

    Raises
    ------
    ModelError, DriftError
        If the features would be others than those of the training.
    """

    def __init__(self, model: Model, options: dict[str, Any]) -> None:
        chosen = {**same_options(model, options), "progress": False, "force": True}
        super().__init__([], Path(), ExtractOptions.of(**chosen))
        self.plan, self.decode = self._plan(None)
        if self.plan.kind != "cpu" and self.plan.probe:
            self.plan = replace(self.plan, batch_size=_GPU_BATCH)
        self._load()
        shape, key = (*self.preprocess.input_size, 3), self.package_key()
        one = replace(self.plan, batch_size=1, probe=False, compile="auto")
        self._many = Runner(self.reader, self.plan, shape, key)
        self._one = Runner(self.reader, one, shape, key)
        names = tap_names(self.spec(self.plan.precision))
        self._taps = [names.index(name) for name in model.taps]
        self._alone = 1  # up to so many pictures go one by one
        # In a thread of its own, as the pictures will be, so that it is timed as it will run.
        with ThreadPoolExecutor(1, initializer=enter_worker_thread) as pool:
            pool.submit(self._check, model).result()

    @property
    def batch_size(self) -> int:
        """Pictures that are best embedded together."""
        return max(1, self._many.batch_size // len(self.preprocess.views))

    @property
    def need(self) -> int:
        """Shorter side, in pixels, that pictures are resized to."""
        return min(self.preprocess.resize_size)

    @property
    def precision(self) -> str:
        """What the network multiplies in."""
        return self._many.precision

    @property
    def compiled(self) -> bool:
        """Whether compiled code runs full batches."""
        return self._many.compiled

    def draw(self, pixels: Pixels) -> Pixels:
        """Draw the views of a decoded picture: uint8, shape (n_views, height, width, 3)."""
        drawn = np.zeros(self.preprocess.out_shape(), np.uint8)
        draw_pixels(pixels, self.preprocess, drawn, self.decode.mode)
        return drawn

    def __call__(self, drawn: list[Pixels]) -> NDArray[np.float32]:
        """Embed what `draw` gave: float32, shape (n, n_features), of the model's taps."""
        pixels = np.concatenate(drawn)
        runner = self._one if len(pixels) <= self._alone else self._many
        merged = self.merged(runner(pixels), len(self.preprocess.views))
        return np.hstack([merged[k] for k in self._taps]).astype(np.float32, copy=False)

    def close(self) -> None:
        """Free the network."""
        self._one.close()
        self._many.close()

    def _check(self, model: Model) -> None:
        """Compare the reference images by both forward passes, then see which is fast for what."""
        images = reference_images(model)
        # Reference images hold the bands that were chosen, and no others.
        policy = replace(self.decode, bands=None)
        decoded = [decode(data, policy, self.need) for data in images or [plain_image(model)]]
        drawn = [self.draw(pixels) for pixels in decoded]
        sample = np.concatenate(drawn)
        for runner, first in ((self._one, sample[:1]), (self._many, sample)):
            runner.prepare(first, len(first))
            self._alone = 0 if runner is self._many else len(sample)
            vectors = self(drawn) if images else None
            require_same_vectors(model, self.spec(runner.precision), vectors)
        self._alone = self._break_even(sample)

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
