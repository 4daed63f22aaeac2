"""The network of a model, loaded once: the reference images go first, and pictures the same way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featx.cache.format import tap_names
from featx.cache.ids import KEY_DTYPE
from featx.cache.staging import Row
from featx.extraction import records
from featx.extraction.changes import say_of_pages, say_of_pictures
from featx.extraction.options import ExtractOptions
from featx.extraction.run import Run
from featx.extraction.threads import Outcome
from featx.images import Pixels, decode, draw_pixels
from featx.items import Source
from featx.model import Model
from featx.model.given import GivenFeatures
from featx.model.references import (
    plain_image,
    reference_images,
    require_same_vectors,
    same_options,
)
from featx.preprocess import Preprocess
from featx.progress import Progress

if TYPE_CHECKING:
    from featx.runtime import Runner, RuntimePlan


def require_same_features(model: Model, options: dict[str, Any]) -> dict[str, Any]:
    """Check, before anything is extracted, that features are those of the training.

    The reference images take the way that the new images will take, from their bytes to their
    vectors. Each `Model` is checked once for a device, a precision and a file of weights.

    Parameters
    ----------
    options
        Fields of `featx.extraction.options.ExtractOptions` that the user gave.

    Returns
    -------
    options : all that `featx.extract` needs for the same features

    Raises
    ------
    ModelError
        If the weights, the taps, the preprocessing or the decoder are others, or the backbone is
        code of a file and the user did not name it.
    DriftError
        If a vector's cosine with the one in the model is below 0.999.
    """
    chosen = same_options(model, options)
    key = "{device} {precision} {weights}".format(**chosen)
    if key not in model.checked:
        ModelNetwork(model, {**chosen, "compile": "off", "progress": False}).check()
        model.checked.add(key)
    return chosen


class ModelNetwork(Run):
    """The network of a model in the state that it was trained with.

    On a CPU nothing is tried: the precision is the model's, and the reference images decide. Where
    an earlier run has left a record of the network and the network itself, it is not built again.

    Parameters
    ----------
    model
        Says which network, preprocessing and taps.
    options
        Fields of `featx.extraction.options.ExtractOptions`, from `same_options`.
    source
        Pictures.

    Raises
    ------
    ModelError, DriftError
        If the features would be others than those of the training.
    """

    def __init__(self, model: Model, options: dict[str, Any], source: Source = ()) -> None:
        super().__init__(source, Path(), ExtractOptions.of(**{**options, "force": True}))
        self.model = model
        self.plan, self.decode = self._plan(None)
        images = bool(reference_images(model)) and self.options.compile != "on"
        self.plan = replace(self.plan, settled=self.plan.kind == "cpu" and images)
        self._precision_asked = self.plan.precision
        self.planned_precision, self.device = self.plan.precision, self.plan.device
        self._recall()
        names = tap_names(self.spec(self.plan.precision))
        self._taps = [names.index(name) for name in model.taps if name in names]

    def _recall(self) -> None:
        """Take from a record what loading would find, else load."""
        if self.plan.settled:
            self.record = records.recall(self.options, self.plan.precision)
        if self.record is None:
            self._load()
        else:
            self.preprocess = Preprocess.from_dict(self.record.spec.preprocess)

    def network(self) -> Any:
        """Load the reader if it is not yet, and give it: a module of torch."""
        if self.record is not None:
            self.record = None
            self._load()
        return self.reader

    def runner(self, plan: RuntimePlan) -> Runner:
        """Make what runs the network."""
        from featx.runtime import Runner

        shape = (*self.preprocess.input_size, 3)
        return Runner(self.network, plan, shape, self.package_key())

    @property
    def need(self) -> int:
        """Shorter side, in pixels, that pictures are resized to."""
        return min(self.preprocess.resize_size)

    def draw(self, pixels: Pixels) -> Pixels:
        """Draw the views of a decoded picture: uint8, shape (n_views, height, width, 3)."""
        drawn = np.zeros(self.preprocess.out_shape(), np.uint8)
        draw_pixels(pixels, self.preprocess, drawn, self.decode.mode)
        return drawn

    def drawn_references(self) -> list[Pixels]:
        """Draw the reference images, or a plain one where the model has none."""
        images = reference_images(self.model)
        # Reference images hold the bands that were chosen, and no others.
        policy = replace(self.decode, bands=None)
        decoded = [decode(data, policy, self.need) for data in images or [plain_image(self.model)]]
        return [self.draw(pixels) for pixels in decoded]

    def vectors(self, runner: Runner, drawn: list[Pixels]) -> NDArray[np.float32]:
        """Embed what `draw` gave: float32, shape (n, n_features), of the model's taps."""
        merged = self.merged(runner(np.concatenate(drawn)), len(self.preprocess.views))
        return np.hstack([merged[k] for k in self._taps]).astype(np.float32, copy=False)

    def require_same(self, runner: Runner, drawn: list[Pixels]) -> None:
        """Refuse a runner whose vectors of the reference images are not the model's."""
        known = reference_images(self.model)
        there = len(self._taps) == len(self.model.taps)
        vectors = self.vectors(runner, drawn) if known and there else None
        require_same_vectors(self.model, self.spec(runner.precision), vectors)

    def embed(self) -> GivenFeatures:
        """Embed the pictures of the source in memory, once the reference images agree.

        Raises
        ------
        ModelError, DriftError
            If they do not.
        ExtractError
            If a picture cannot be read and the options say that this ends the run.
        """
        self.list_images()
        with self.runner(self.plan) as runner:
            self._check(runner)
            return self._embed(runner)

    def check(self) -> None:
        """Compare the reference images, and no more.

        Raises
        ------
        ModelError, DriftError
            If features would be others.
        """
        with self.runner(self.plan) as runner:
            self._check(runner)

    def _check(self, runner: Runner) -> None:
        from featx.runtime import enter_worker_thread

        def compare() -> None:
            drawn = self.drawn_references()
            sample = np.concatenate(drawn)
            runner.prepare(sample, len(sample))
            self.require_same(runner, drawn)

        with ThreadPoolExecutor(1, initializer=enter_worker_thread) as pool:
            pool.submit(compare).result()
        # Without a pace, which would tell nothing of a large run.
        self.remember(Outcome(np.zeros(0, KEY_DTYPE)), self.spec(runner.precision))

    def _embed(self, runner: Runner) -> GivenFeatures:
        manifest, found = self.manifest, dict[str, NDArray[np.float32]]()
        items, outcome = np.arange(len(manifest)), Outcome(np.zeros(len(manifest), KEY_DTYPE))

        def store(rows: list[Row]) -> None:
            for row in rows:
                taps = [np.asarray(row.vectors[k], np.float32) for k in self._taps]
                found[row.item] = np.concatenate(taps)

        say_of_pictures(manifest, items, self.decode)
        show = Progress(len(manifest), "predict", show=self.options.progress)
        try:
            loop = self.loop(items, outcome, None, runner, store)
            loop.run(lambda done: show.update(done.done))
        finally:
            show.close()
        say_of_pages(outcome.pages_left)
        failed = self.failures(outcome)
        rows = [k for k in items.tolist() if manifest.ids[k] in found]
        if not rows:
            return GivenFeatures.none(self.model, failed)
        ids = [manifest.ids[k] for k in rows]
        X = np.stack([found[name] for name in ids])
        return GivenFeatures(X, failed, ids, [manifest.paths[k] for k in rows])
