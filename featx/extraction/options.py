"""Options of `featx.extract`, and its result."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Literal, get_type_hints

import numpy as np

from featx.arguments import absolute, require_types
from featx.errors import FeatxError, OptionError, nearest
from featx.extraction.changes import Changes
from featx.extraction.planning import Plan
from featx.images import DecodePolicy, parse_bands
from featx.slices import Slice
from featx.typing import JsonObject

DEFAULT_BACKBONE = "efficientnet_lite0"

DECIDE_VALUES = (
    "backbone",
    "weights",
    "layers",
    "pool",
    "input_size",
    "crop_pct",
    "resize",
    "interpolation",
    "mean",
    "std",
    "views",
    "view_merge",
    "dtype",
    "bits",
    "bands",
)
"""The options that can change a feature; a model keeps them."""


@dataclass(frozen=True)
class ExtractOptions:
    """How `extract` works; every field is an option of ``featx extract``.

    Parameters
    ----------
    backbone, weights
        See `featx.load_backbone`.
    layers, pool
        Which taps to read; the last pooling layer when no layer is named.
    input_size, crop_pct, resize, interpolation, mean, std
        Replace one part of the preprocessing that belongs to the weights.
    views, view_merge
        Several views of each image (`featx.preprocess.VIEW_SETS`), and what becomes of their
        vectors: ``mean``, ``concat`` or ``apart`` (a tap for each view).
    device, precision, batch_size, compile, threads
        See `featx.runtime.plan_runtime`.
    engine
        ``local``: processes of this machine; ``ray``: workers of a Ray cluster.
    workers
        Processes that share the work; by default one for each GPU of ``cuda``, else one. On a
        cluster one for each GPU, or for each machine if there are none.
    address
        Of the Ray cluster: ``auto`` is that of RAY_ADDRESS, else the one this machine belongs to;
        ``local`` starts one here for the run; or ``host:port``, ``ray://host:port``.
    gpus_per_worker
        What each worker of a cluster reserves, for example 0.5; by default 1 if there are GPUs.
    decode
        ``exact``, ``fast`` or ``reference``; by default as in the cache in place, else ``exact``.
    bits
        Bits that pictures of more than 8 bits use, such as 12: 2 ** bits - 1 is white.
    bands
        Numbers of the bands to read, from 1: ``"3,2,1"`` or (3, 2, 1) for red, green and blue, one
        for grey.
    pages
        ``first``: the first page or frame of each file; ``all``: a row for each, ``id#2`` and so
        on.
    dtype
        ``float32`` or ``float16``: what is stored. When None, ``float16`` where maps are kept
        (``pool="none"``), else ``float32``.
    shard
        ``(k, n)`` or ``"k/n"``: the kth of n parts of the source alone, into a cache of its own;
        n such runs, each by itself, and `featx.cache.merge` give what one run gives.
    labels
        Table of ids and labels that replace those of the source.
    missing
        Texts in a table that mean that a field is missing, beside the empty one: ``"NA"``, or a
        list of several.
    allow_hosts
        Hosts, beside its own, that a table or a redirect behind a URL may lead to.
    on_error, max_failed
        ``fail`` ends the run at the first image that cannot be read, `max_failed` after so many.
    dry_run
        Say what would be done, and do nothing.
    force
        Do not reuse the cache in place, and replace it whatever it is.
    progress
        Whether to show progress on stderr.
    """

    backbone: str = DEFAULT_BACKBONE
    weights: str | None = None
    layers: tuple[str, ...] = ()
    pool: str | None = None
    input_size: int | None = None
    crop_pct: float | None = None
    resize: str | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    views: str | None = None
    view_merge: Literal["mean", "concat", "apart"] = "mean"
    device: str = "auto"
    precision: str = "auto"
    batch_size: int | Literal["auto"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    threads: int | None = None
    engine: Literal["local", "ray"] = "local"
    workers: int | None = None
    address: str = "auto"
    gpus_per_worker: float | None = None
    decode: Literal["exact", "fast", "reference"] | None = None
    bits: int | None = None
    bands: str | Sequence[int] | None = None
    pages: Literal["first", "all"] = "first"
    dtype: Literal["float32", "float16"] | None = None
    shard: str | Sequence[int] | Slice | None = None
    missing: str | Sequence[str] = ()
    labels: str | os.PathLike[str] | None = None
    allow_hosts: str | Sequence[str] = ()
    on_error: Literal["skip", "fail"] = "skip"
    max_failed: int | None = None
    dry_run: bool = False
    force: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        require_types("extract", _hints(), vars(self))
        if self.keeps_maps and self.views not in (None, "none") and self.view_merge != "apart":
            raise OptionError(
                f"pool none keeps maps, and maps of several views cannot be merged by "
                f"{self.view_merge}; pass --view-merge apart"
            )
        if self.workers is not None and self.workers < 1:
            raise FeatxError(f"workers must be 1 or more, got {self.workers}")
        if self.gpus_per_worker is not None and not 0 <= self.gpus_per_worker < math.inf:
            raise FeatxError(f"gpus_per_worker must be 0 or more, got {self.gpus_per_worker}")
        if self.max_failed is not None and self.max_failed < 0:
            raise FeatxError(f"max_failed must be 0 or more, got {self.max_failed}")
        Slice.of(self.shard)
        DecodePolicy(bits=self.bits, bands=self.band_numbers)

    @property
    def keeps_maps(self) -> bool:
        """True if a tap keeps its map."""
        return "none" in (self.pool or "").split("+")

    @property
    def stored(self) -> Literal["float32", "float16"]:
        """The type that is stored."""
        return self.dtype or ("float16" if self.keeps_maps else "float32")

    @property
    def band_numbers(self) -> tuple[int, ...] | None:
        """The bands that were chosen."""
        return None if self.bands is None else parse_bands(self.bands)

    @property
    def missing_texts(self) -> tuple[str, ...]:
        """Texts that mean that a field of a table is missing."""
        return (self.missing,) if isinstance(self.missing, str) else tuple(self.missing)

    @property
    def hosts(self) -> tuple[str, ...]:
        """Hosts that may be followed to; several may stand in one text, separated by commas."""
        given = [self.allow_hosts] if isinstance(self.allow_hosts, str) else self.allow_hosts
        return tuple(host.strip() for text in given for host in text.split(",") if host.strip())

    @property
    def slice_(self) -> Slice:
        """The part of the source that is asked for."""
        return Slice.of(self.shard)

    @classmethod
    def of(cls, **options: Any) -> ExtractOptions:
        """Build from keyword arguments as `featx.extract` takes them.

        One layer counts as a list of one, lists become tuples and a path of weights its text; an
        unknown option is named with the nearest known.
        """
        for name in options:
            if name not in _hints():
                raise OptionError(f"extract has no option {name!r}{nearest(name, _hints())}")
        layers = options.get("layers")
        if layers is None or isinstance(layers, str):
            options["layers"] = () if layers is None else (layers,)
        for name in ("layers", "mean", "std", "bands"):
            if isinstance(options.get(name), list | np.ndarray):
                options[name] = tuple(options[name])
        if isinstance(options.get("weights"), os.PathLike):
            options["weights"] = os.fspath(options["weights"])
        return cls(**options)

    def values(self) -> dict[str, Any]:
        """The options that decide values, JSON-ready: what a model needs to extract alike."""
        found = {name: getattr(self, name) for name in DECIDE_VALUES}
        found["dtype"] = self.stored
        if self.weights:  # a model is used from other folders than its cache was made in
            found["weights"] = absolute(self.weights)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(ExtractOptions)


@dataclass(frozen=True)
class ExtractResult:
    """The result of a run; `to_dict` is the JSON object of ``featx extract --json``.

    ``embedded`` rows were computed now, ``reused`` rows were taken from the cache in place or from
    shards left behind; embedded + reused + failed = discovered. ``images_per_second`` counts from
    the first read to publication, without loading and compiling. ``shares`` are those of the
    threads' busy time. ``plan`` is what the first batches let expect, None for a short run.
    ``ignored_by_extension`` says what the ignored files are; ``pages_left`` counts pages and frames
    beyond the first that were not read.
    ``warnings`` are ``{"code", "message"}`` each: what was assumed, and what looks like a mistake.
    ``shard`` is ``k/n`` where a part of the source was asked for; the counts are of that part.
    """

    cache: str
    fingerprint: str
    discovered: int
    embedded: int
    reused: int
    failed: int
    removed: int
    ignored: int
    n_features: int
    taps: dict[str, int]
    device: str
    precision: str
    compiled: bool
    images_per_second: float
    seconds: dict[str, float]
    shares: dict[str, float]
    difference: Changes = field(default_factory=Changes)
    failures: dict[str, str] = field(default_factory=dict)
    plan: Plan | None = None
    dry_run: bool = False
    shard: str | None = None
    ignored_by_extension: dict[str, int] = field(default_factory=dict)
    pages_left: int = 0
    warnings: list[dict[str, str]] = field(default_factory=list)

    def to_dict(self) -> JsonObject:
        """JSON-ready values."""
        return asdict(self)
