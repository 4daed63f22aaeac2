"""The main job: a source of images becomes a cache of features, reusing every row that exists."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from featx.arguments import typed
from featx.cache.lock import WriterLock
from featx.cache.publish import require_target, target_path
from featx.cache.reuse import KnownRows
from featx.cache.staging import remove_unfinished
from featx.extraction.changes import (
    require_no_others,
    say_of_pages,
    say_of_pictures,
    unchanged,
    untouched_content,
)
from featx.extraction.dryrun import predict_run
from featx.extraction.options import DEFAULT_BACKBONE, ExtractOptions, ExtractResult
from featx.extraction.result import publish_run, result_as_it_is
from featx.extraction.run import Run
from featx.extraction.threads import Outcome
from featx.items import Source
from featx.preprocess import Interpolation
from featx.progress import Progress
from featx.slices import Slice
from featx.sources.addresses import allowing
from featx.spec import ExtractSpec

if TYPE_CHECKING:
    from featx.extraction.chunks import NetworkState

log = logging.getLogger("featx")


@typed
def extract(
    source: Source,
    cache: str | os.PathLike[str],
    *,
    backbone: str = DEFAULT_BACKBONE,
    weights: str | os.PathLike[str] | None = None,
    layers: str | Sequence[str] = (),
    pool: str | None = None,
    input_size: int | None = None,
    crop_pct: float | None = None,
    resize: Literal["crop", "squash", "pad"] | None = None,
    interpolation: Interpolation | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    views: str | None = None,
    view_merge: Literal["mean", "concat", "apart"] = "mean",
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | Literal["auto"] = "auto",
    compile: Literal["auto", "on", "off"] = "auto",
    threads: int | None = None,
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    address: str = "auto",
    gpus_per_worker: float | None = None,
    decode: Literal["exact", "fast", "reference"] | None = None,
    bits: int | None = None,
    bands: str | Sequence[int] | None = None,
    pages: Literal["first", "all"] = "first",
    dtype: Literal["float32", "float16"] | None = None,
    shard: str | Sequence[int] | Slice | None = None,
    missing: str | Sequence[str] = (),
    labels: str | os.PathLike[str] | None = None,
    allow_hosts: str | Sequence[str] = (),
    on_error: Literal["skip", "fail"] = "skip",
    max_failed: int | None = None,
    dry_run: bool = False,
    force: bool = False,
    progress: bool = True,
) -> ExtractResult:
    """Embed every image of `source` and publish the features as `cache`.

    What exists is reused: rows of the cache in place and of an interrupted run, found by the
    content of the images. The cache in place stays as it is until the new one is complete.

    With `shard`, a part of the source is listed and embedded alone. A cache keeps to its shard: a
    run of another one, or of one out of another number, is refused, for it would drop every row as
    if its image were gone; so is a shard over a cache of the whole source. A run of the whole over
    the cache of a shard keeps all its rows and adds the others.

    Parameters
    ----------
    source
        A folder of class folders, a CSV or Parquet table, a list of paths, or a built-in name.
    cache
        The HDF5 file to write.
    backbone, weights
        The network and its weights; see `featx.load_backbone`.
    layers, pool
        Layers to read, one name or several, globs allowed, and how each is pooled (``avg``,
        ``max``, ``avgmax``, ``cov``, ``gem``, ``flatten``, ``cls``; ``a+b`` gives two taps;
        ``none`` keeps the map, for `featx.tune`). By default the last pooling layer.
    input_size
        Pixels a side. This and the next five replace a part of the preprocessing that belongs to
        the weights.
    crop_pct
        Share of the resized side that the crop keeps, in (0, 1].
    resize, interpolation
        How a picture is brought to that size.
    mean, std
        Three numbers each, of pixel values in [0, 1]; one for a network of grey pictures.
    views, view_merge
        Several views of each image (`featx.preprocess.VIEW_SETS`), and what becomes of their
        vectors: ``mean``, ``concat`` or ``apart`` (a tap for each view).
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    precision
        ``auto``, ``fp32``, ``bf16`` or ``fp16``.
    batch_size
        Images in one forward pass.
    compile
        Compile the forward pass.
    threads
        Worker threads; by default the cores that this process may use.
    engine, workers, address, gpus_per_worker
        Processes of this machine or of a Ray cluster; see
        `featx.extraction.options.ExtractOptions`.
    decode
        ``exact``; ``fast``: large JPEGs at reduced scale; ``reference``: resized as the library's
        own transform does, bit for bit, more slowly. By default as in the cache in place, else
        ``exact``.
    bits
        Bits that pictures of more than 8 bits use, such as 12: 2 ** bits - 1 is white.
    bands
        Numbers of the bands to read, from 1: ``"3,2,1"`` or (3, 2, 1) for red, green and blue, one
        for grey.
    pages
        ``first``: the first page or frame of each file; ``all``: a row for each, with the id
        ``id#2`` and so on.
    dtype
        Type of the stored features: ``float32``, or ``float16`` where maps are kept, when None.
    shard
        ``"k/n"`` or ``(k, n)``: the kth of n parts of the source alone.
    labels
        Table with the columns ``id`` and ``label``, whose labels replace those of the source.
        Nothing is embedded again, the source stays as it is, and a run without it takes them back.
    missing
        Texts that mean that a field of a table is missing, beside the empty one: ``"NA"``, or a
        list of several.
    allow_hosts
        Hosts, beside its own, that a table or a redirect behind a URL may lead to.
    on_error, max_failed
        ``fail`` ends the run at the first image that cannot be read, `max_failed` after so many.
    dry_run
        Report what would be done, and do nothing.
    force
        Do not reuse the cache in place, and replace it whatever it is.
    progress
        Show progress on stderr.

    Raises
    ------
    OptionError
        If an option has a wrong type.
    SourceError, BackboneError, DeviceError
        If the run cannot start.
    CacheMismatchError
        If the cache in place has another fingerprint, or is not of the same shard, and `force` is
        not set.
    CacheLockedError
        If another process is writing the cache.
    ExtractError
        If no image could be embedded, or too many failed.

    Examples
    --------
    >>> import featx
    >>> result = featx.extract("photos/", "photos.h5", backbone="resnet50")  # doctest: +SKIP
    """
    given = {name: value for name, value in locals().items() if name not in ("source", "cache")}
    asked = ExtractOptions.of(**given)
    with allowing(asked.hosts):
        run = Run(source, target_path(cache, create=not asked.dry_run), asked)
        return predict_run(run) if asked.dry_run else _execute(run)


def _execute(run: Run) -> ExtractResult:
    """List, load, reuse, embed, publish."""
    require_target(run.cache, run.source)
    with ExitStack() as stack:
        # Locked from before the cache in place is looked at.
        stack.enter_context(WriterLock(run.cache))
        if run.options.engine == "ray":
            from featx.extraction.cluster import connected, plan_on

            run.crew = stack.enter_context(connected(run.options))
            run.planner = partial(plan_on, run.crew)
        old = run.look()
        if old is not None and (done := unchanged(run, old)) is not None:
            return result_as_it_is(run, done, old)
        run.load(old)
        _say_of_shard(run, old)
        remove_unfinished(run.cache)
        run.require_match(old)
        if old is not None:
            require_no_others(run)
        in_place = old is not None and not run.options.force
        known = run.known(run.spec(run.plan.precision), in_place=in_place)
        outcome = _reuse(run, known)
        network = _embed(run, known, outcome)
        say_of_pages(outcome.pages_left)
        return publish_run(run, outcome, known, network, run.cache if in_place else None)


def _reuse(run: Run, known: KnownRows) -> Outcome:
    """Find the items whose rows exist; the others are to be read."""
    content = untouched_content(run.manifest, known)
    known.forget_names()
    to_read = np.flatnonzero(content == b"")
    run.say_of_maps(len(to_read))
    say_of_pictures(run.manifest, to_read, run.decode)
    return Outcome(content=content, reused=len(content) - len(to_read))


def _embed(run: Run, known: KnownRows, outcome: Outcome) -> NetworkState:
    """Embed the items that have no row."""
    from featx.extraction import processes, ray_data

    show = Progress(len(run.manifest), "extract", show=run.options.progress)
    run.first_read = time.perf_counter()
    try:
        if run.crew is None:
            network = processes.embed(run, known, outcome, show)
        else:
            network = ray_data.embed(run, run.crew, known, outcome, show)
        show.update(outcome.done)
        return network
    except KeyboardInterrupt:
        log.warning("stopped: %d of %d images are done and kept", show.done, show.total)
        log.warning("the same command goes on from there")
        raise
    finally:
        show.close()


def _say_of_shard(run: Run, old: ExtractSpec | None) -> None:
    slice_, precision = run.options.slice_, run.plan.precision
    if slice_.is_whole:
        return
    if run.options.precision == "auto" and old is None and precision != "fp32":
        log.warning(
            "shard %s decides about %s on its own pictures; pass --precision, so that all "
            "shards have the same and can be merged",
            slice_,
            precision,
        )
    if not len(run.manifest) and run.manifest.dealt is not None:
        log.warning(
            "shard %s holds nothing: %s has %d to deal out",
            slice_,
            run.manifest.name,
            run.manifest.dealt.names,
        )
