"""Train the layers above a map from cached maps, and write a weights file."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from featx.arguments import several, typed
from featx.backbones import load_backbone
from featx.backbones.backbone import Backbone
from featx.cache.cache import Cache, open_cache
from featx.errors import BackboneError, FitError
from featx.evaluation import compare_paired
from featx.extraction.extraction import extract
from featx.extraction.options import DEFAULT_BACKBONE
from featx.fitting.samples import Samples
from featx.items import Source
from featx.runtime.devices import choose_device
from featx.seen import short_digests
from featx.selection.checks import check_groups
from featx.selection.splits import Split
from featx.spec import library_versions
from featx.targets import require_writable
from featx.tuning.epochs import Classifier, Lesson, TrainingResult, learn, predict
from featx.tuning.options import TuneOptions, TuneResult
from featx.tuning.resume import Resume, digest_of, write_weights
from featx.tuning.sides import MapRows, labelled, row_weights, split_rows
from featx.tuning.upper import CutNetwork, cut_network
from featx.tuning.ways import WAYS, Field, WayResult, measured, named
from featx.typing import JsonObject

log = logging.getLogger("featx")


@typed
def tune(
    source: Source,
    weights: str | os.PathLike[str],
    *,
    layer: str,
    backbone: str = DEFAULT_BACKBONE,
    start: str | os.PathLike[str] | None = None,
    maps: str | os.PathLike[str] | None = None,
    input_size: int | None = None,
    views: str | None = None,
    dtype: Literal["float32", "float16"] = "float16",
    missing: str | Sequence[str] = (),
    epochs: int = 20,
    batch_size: int = 64,
    optimizer: Literal["adamw", "sgd"] = "adamw",
    lr: float = 3e-4,
    weight_decay: float = 0.01,
    schedule: Literal["cosine", "one-cycle", "constant"] = "cosine",
    label_smoothing: float = 0.0,
    class_weights: Literal["none", "balanced"] = "none",
    batchnorm: Literal["frozen", "train"] = "frozen",
    validation: float = 0.15,
    patience: int = 5,
    label: str | None = None,
    groups: str | None = None,
    weights_column: str | None = None,
    split: str | float = "auto",
    baselines: str | Sequence[str] = (),
    seed: int = 0,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    threads: int | None = None,
    force: bool = False,
    progress: bool = True,
) -> TuneResult:
    """Train the layers of a network above a map, from cached maps, and measure them.

    What lies below `layer` runs once for each image; its maps are kept in a cache, which another
    call reuses. Test rows are held out first. The state is saved after each epoch, and the same
    call goes on from there after a kill.

    Parameters
    ----------
    source
        What `featx.extract` takes, with labels.
    weights
        The ``.safetensors`` file to write: the whole network in its own naming, for ``extract
        --weights``. It names the pictures that it was trained on, so that no head is tested on
        them.
    layer
        The module whose map is cached; `featx layers` lists them with the size of a map.
    backbone, start
        The network and its weights before training, as in `featx.load_backbone`: a file of an
        earlier `tune` on a related task, too.
    maps
        The cache of the maps; beside `weights` when None.
    input_size, missing, threads
        As in `featx.extract`.
    views
        Views of each image that training draws from, such as ``hflip``; all are of the same row,
        so no split separates them.
    dtype
        Type of the stored maps.
    epochs, batch_size, optimizer, lr, weight_decay, schedule, label_smoothing, class_weights
        See `featx.tuning.options.TuneOptions`, also for the next three.
    batchnorm, validation, patience
        BatchNorm's statistics, the share of training rows that decides when to stop, and for how
        many epochs their loss may fail to fall.
    label, groups, weights_column, split
        As in `featx.fit`.
    baselines
        ``frozen``, ``whole``, ``scratch``: trained and measured on the same rows.
    seed
        Random seed of the split, the new top and every shuffle.
    device, precision
        As in `featx.extract`.
    force
        Replace a file at `weights` that featx did not write, and maps of another layer or network,
        and begin a stopped run again.
    progress
        Show progress on stderr.

    Raises
    ------
    OptionError
        If an option has a wrong type or value.
    BackboneError
        If the network cannot be cut at `layer`.
    FitError
        If the rows cannot be split, a class has no training row, or the loss is not finite.
    CacheMismatchError
        If maps or the state of a stopped run are of other options.

    Examples
    --------
    >>> import featx
    >>> result = featx.tune("photos/", "photos.safetensors", layer="layer3")  # doctest: +SKIP
    >>> result.test["tuned"]["accuracy"]["value"]  # doctest: +SKIP
    0.94
    """
    given = dict(locals())
    own = {name: given[name] for name in TuneOptions.__dataclass_fields__ if name in given}
    options = TuneOptions(**own | {"baselines": tuple(dict.fromkeys(several(baselines)))})
    target = _target(weights, source, options)
    place = target.with_suffix(".maps.h5") if maps is None else Path(maps)
    begin = None if start is None else os.fspath(start)
    if backbone.endswith(".onnx"):
        raise BackboneError(f"tune: {backbone} is a fixed graph; name a network of a library")
    network = load_backbone(backbone, weights=begin)
    cut = cut_network(network, layer, network.preprocess.override(input_size=input_size))
    _say(cut, network, layer)
    extract(
        source,
        place,
        backbone=backbone,
        weights=begin,
        layers=layer,
        pool="none",
        input_size=input_size,
        views=views,
        view_merge="apart" if views else "mean",
        dtype=dtype,
        missing=missing,
        device=device,
        precision=precision,
        threads=threads,
        force=force,
        progress=progress,
    )
    with open_cache(place) as cache:
        task = _Tuning(cache, network, cut, options, backbone, begin, target)
        return task.run(layer)


def _target(weights: str | os.PathLike[str], source: Source, options: TuneOptions) -> Path:
    target = Path(weights)
    if target.suffix != ".safetensors":
        raise FitError(f"tune writes a .safetensors file, got {target}; name one")
    read = source if isinstance(source, str | os.PathLike) else None
    require_writable(target, "weights", read, force=options.force)
    return target


def _say(cut: CutNetwork, backbone: Backbone, layer: str) -> None:
    above, whole = cut.multiply_adds
    log.info(
        "tune: %d tensors above %s of %s are trained: %s of %s million multiply-adds of an image",
        len(cut.trained),
        layer,
        backbone.name,
        f"{above / 1e6:,.1f}",
        f"{whole / 1e6:,.1f}",
    )


@dataclass(frozen=True, eq=False)
class _Tuning:
    """One run, once its maps are there."""

    cache: Cache
    backbone: Backbone
    cut: CutNetwork
    options: TuneOptions
    name: str
    start: str | None
    target: Path

    def run(self, layer: str) -> TuneResult:
        """Split, train, measure, write."""
        options = self.options
        samples = labelled(self.cache, options)
        split, notes = split_rows(samples, options)
        field = self._field(samples, split)
        beside = {way: WAYS[way](field) for way in ("frozen",) if way in options.baselines}
        resume = Resume(self._checkpoint, self._decides(field, layer))
        if options.force:
            resume.remove()
        model, learned = self._train(field, resume)
        table = predict(model, field.maps, field.test, options, field.maps.n_views)
        cost = learned.done.seconds, self.cut.multiply_adds[0]
        found = {"tuned": measured(field, named(field, table), table, cost)}
        found |= beside
        self._write(field, model, layer)
        resume.remove()
        for way in options.baselines:
            if way not in found:
                log.info("tune: baseline %s", way)
                found[way] = WAYS[way](field)
        return self._result(field, learned, found, layer, notes)

    @property
    def _checkpoint(self) -> Path:
        return self.target.with_suffix(".checkpoint")

    def _field(self, samples: Samples, split: Split) -> Field:
        views = [self.cache.tap(name) for name in self.cache.taps]
        maps = MapRows(views, self.cut.map, samples.rows)
        y = np.searchsorted(np.asarray(samples.classes), samples.y).astype(np.int64)
        none = np.zeros(0, np.intp)
        validation = none if split.validation is None else split.validation
        weights = row_weights(samples, y, split.train, self.options)
        lesson = Lesson(maps, y, weights, split.train, validation)
        device = torch.device(choose_device(self.options.device))
        self.cut.upper.to(device)
        return Field(
            self.cache,
            samples,
            self.name,
            self.start,
            self.cut,
            maps,
            lesson,
            split.test,
            self.options,
            device,
        )

    def _train(self, field: Field, resume: Resume) -> tuple[Classifier, TrainingResult]:
        parameters = dict(self.cut.net.named_parameters())
        for name in self.cut.trained:
            parameters[name].requires_grad_(True)
        n_classes = len(field.samples.classes)
        model = Classifier(self.cut.upper, self.cut.n_features, n_classes, self.options.seed)
        return model, learn(model, field.lesson, self.options, field.device, resume)

    def _decides(self, field: Field, layer: str) -> JsonObject:
        lesson, digests = field.lesson, field.samples.digests
        rows = digest_of(
            digests[lesson.train].tobytes(),
            digests[lesson.validation].tobytes(),
            lesson.y.tobytes(),
            lesson.weights.tobytes(),
        )
        return {
            "backbone": self.backbone.name,
            "start": self.backbone.weights.digest[:16],
            "layer": layer,
            "maps": self.cache.fingerprint[:16],
            "rows": rows,
            **self.options.deciding(),
        }

    def _write(self, field: Field, model: Classifier, layer: str) -> None:
        facts = {
            **self._decides(field, layer),
            "lr": self.options.lr,
            "classes": field.samples.classes,
            "versions": library_versions(),
        }
        seen = short_digests(field.samples.digests[seen_rows(field.lesson)])
        write_weights(self.target, self.backbone, self.cut.net, model.top, seen, facts)

    def _result(
        self,
        field: Field,
        learned: TrainingResult,
        found: dict[str, WayResult],
        layer: str,
        notes: list[dict[str, str]],
    ) -> TuneResult:
        lesson, y = field.lesson, field.samples.y[field.test]
        codes = check_groups(field.samples.groups, len(field.samples))
        groups = None if codes is None else codes[field.test]
        paired = {
            way: compare_paired(
                y, one.predicted, found["tuned"].predicted, groups=groups, seed=self.options.seed
            )
            for way, one in found.items()
            if way != "tuned"
        }
        return TuneResult(
            weights=str(self.target),
            backbone=self.name,
            layer=layer,
            map=self.cut.map,
            maps=str(self.cache.path),
            classes=field.samples.classes,
            test={way: one.figures for way, one in found.items()},
            paired=paired,
            seen=len(seen_rows(lesson)),
            n_train=len(lesson.train),
            n_validation=len(lesson.validation),
            n_test=len(field.test),
            best_epoch=learned.done.best_epoch + 1,
            history=learned.done.history,
            warnings=notes,
        )


def seen_rows(lesson: Lesson) -> NDArray[np.intp]:
    """Positions of the rows that decided about the weights."""
    return np.concatenate([lesson.train, lesson.validation]).astype(np.intp)
