"""The other ways of transfer, on the same rows: frozen, the whole network, and from scratch."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featx.backbones import load_backbone
from featx.cache.cache import Cache
from featx.errors import FeatxError, FitError
from featx.evaluation import evaluate, intervals_of
from featx.files import size_text
from featx.fitting.contenders import head_over
from featx.fitting.measuring import Measurement
from featx.fitting.samples import Samples
from featx.heads import get_head
from featx.model.references import image_reader
from featx.preprocess import Preprocess
from featx.selection import SplitPlan
from featx.selection.checks import check_groups
from featx.streaming.memory import free_bytes
from featx.tuning.epochs import Classifier, Lesson, learn, predict
from featx.tuning.options import TuneOptions
from featx.tuning.sides import InputRows, PictureRows, Positions, batches_of
from featx.tuning.upper import CutNetwork
from featx.typing import JsonObject, RowValues


@dataclass(frozen=True)
class Field:
    """The data that all ways share: rows, who may see which, and the network to begin with.

    Parameters
    ----------
    backbone, start
        The network's name, and its weights before training, as `featx.load_backbone` takes them.
    cut
        That network, cut at the map.
    maps
        The maps of `samples`.
    lesson
        For the layers above the map; other ways put their own rows in it.
    test
        Positions that nothing sees.
    """

    cache: Cache
    samples: Samples
    backbone: str
    start: str | None
    cut: CutNetwork
    maps: InputRows
    lesson: Lesson
    test: Positions
    options: TuneOptions
    device: torch.device

    @property
    def preprocess(self) -> Preprocess:
        """Of the maps."""
        found = Preprocess.from_dict(self.cache.spec.preprocess)
        return found.override(views="none")


@dataclass(frozen=True)
class WayResult:
    """Predictions of one way for the test rows, and their metrics."""

    predicted: RowValues
    figures: JsonObject


def measured(
    field: Field, predicted: RowValues, table: NDArray[Any] | None, cost: tuple[float, int]
) -> WayResult:
    """Measure predictions of the test rows; `cost` is seconds and multiply-adds of an image."""
    samples, codes = field.samples, check_groups(field.samples.groups, len(field.samples))
    metrics = evaluate(
        samples.y[field.test],
        predicted,
        probabilities=table,
        classes=samples.classes,
        seed=field.options.seed,
        groups=None if codes is None else codes[field.test],
    )
    found = intervals_of(metrics)
    return WayResult(predicted, {**found, "seconds": cost[0], "multiply_adds": cost[1]})


def named(field: Field, table: NDArray[Any]) -> RowValues:
    """Name the likeliest class of each row."""
    return np.array([field.samples.classes[k] for k in table.argmax(1)])


def frozen(field: Field) -> WayResult:
    """Fit the best head on the features of the network as it was before training."""
    start, options = time.perf_counter(), field.options
    body = field.cut.upper.eval()
    vectors = np.zeros((len(field.cache), field.cut.n_features), np.float32)
    rows = field.samples.rows
    with torch.inference_mode():
        for some in batches_of(np.arange(len(rows)), max(2, options.batch_size)):
            for view in range(field.maps.n_views):
                maps = field.maps.take(some, view=view).to(field.device)
                vectors[rows[some]] += body(maps).cpu().numpy() / field.maps.n_views
    split = np.full(len(rows), "train", object)
    split[field.test] = "test"
    held: Any = vectors  # read by rows, as the features of a cache are
    samples = replace(field.samples, features=held, split=split, notes=())
    samples = replace(samples, widths={samples.tap: field.cut.n_features})
    plan = SplitPlan(seed=options.seed, fit_on="train")
    found = Measurement(head_over(get_head("auto"), samples), samples, plan).run()
    order = np.searchsorted(found.test, field.test)
    table = found.scores.probabilities
    cost = time.perf_counter() - start, 0
    return measured(
        field, found.scores.predicted[order], None if table is None else table[order], cost
    )


def whole(field: Field) -> WayResult:
    """Train the whole network from pictures, flipped and cropped at random."""
    return _from_pictures(field, field.start, field.options)


def scratch(field: Field) -> WayResult:
    """Train the architecture from random weights; BatchNorm has no statistics yet and trains."""
    return _from_pictures(field, "random", replace(field.options, batchnorm="train"))


WAYS: dict[str, Callable[[Field], WayResult]] = {
    "frozen": frozen,
    "whole": whole,
    "scratch": scratch,
}


def _from_pictures(field: Field, weights: str | None, options: TuneOptions) -> WayResult:
    start = time.perf_counter()
    backbone = load_backbone(field.backbone, weights=weights)
    reader = backbone.reader((backbone.default,), field.preprocess)
    n_features = reader.n_features[0]
    reader.net.requires_grad_(True)
    model = Classifier(reader, n_features, len(field.samples.classes), options.seed)
    lesson = replace(field.lesson, rows=PictureRows(read_pictures(field)))
    learn(model, lesson, options, field.device)
    table = predict(model, lesson.rows, field.test, options)
    cost = time.perf_counter() - start, field.cut.multiply_adds[1]
    return measured(field, named(field, table), table, cost)


def read_pictures(field: Field) -> NDArray[np.uint8]:
    """Read the pictures of all samples again, as the network takes them.

    Raises
    ------
    FitError
        If one is gone or has changed, or all of them would not fit into memory.
    """
    from featx.images import decode, draw_pixels, policy_of

    cache, samples, preprocess = field.cache, field.samples, field.preprocess
    shape = (len(samples), *preprocess.input_size, 3)
    if (needed := int(np.prod(shape))) > free_bytes() // 2:
        raise FitError(
            f"tune: pictures of {len(samples)} rows take {size_text(needed)} of memory, more than "
            "half of what is free; compare with --baselines frozen alone, or on fewer rows"
        )
    policy, read = policy_of(cache.spec.decode), image_reader(cache)
    pixels = np.zeros(shape, np.uint8)

    def draw(k: int) -> None:
        row = int(samples.rows[k])
        try:
            data = read(row)
            if hashlib.sha256(data).hexdigest().encode() != bytes(cache.content_digests[row]):
                raise FitError("another picture lies there now")
            found = decode(data, policy, min(preprocess.resize_size))
            draw_pixels(found, preprocess, pixels[k : k + 1], policy.mode)
        except (FeatxError, KeyError, OSError) as error:
            raise FitError(
                f"tune: the picture of {samples.ids[k]!r} cannot be read again ({error}); "
                "extract the maps again, or leave out the baselines whole and scratch"
            ) from None

    with ThreadPoolExecutor(4) as threads:
        for _ in threads.map(draw, range(len(samples))):
            pass
    return pixels
