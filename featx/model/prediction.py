"""Label new images: extract as the model's features were, then predict with flat memory."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from glob import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featx.cache.cache import Cache, open_cache
from featx.cache.h5file import is_cache
from featx.cache.lock import WriterLock
from featx.cache.staging import parts_folder, remove_parts
from featx.errors import CacheError, ExtractError
from featx.evaluation.conformal import members
from featx.files import behind, scratch_folder
from featx.labels import SEPARATOR, joined_labels
from featx.model import Model
from featx.model.given import GivenFeatures, as_source
from featx.model.likeness import RATE, Likeness, likeness_of, require_rate
from featx.model.network import ModelNetwork, require_same_features
from featx.model.references import same_options
from featx.model.rowfile import Row, open_rows, require_rows_target
from featx.model.thresholds import decide
from featx.printing import prediction_sheet
from featx.progress import Progress
from featx.typing import JsonObject

if TYPE_CHECKING:
    import pandas as pd


_BATCH = 4096  # rows predicted at a time
_NEAR_BATCH = 256
_FEW = 32  # pictures that are embedded in memory
_UNFAMILIAR = "\0unfamiliar"  # no class is called so


@dataclass(frozen=True, repr=False)
class Prediction:
    """The result of `Model.predict`; `to_dict` is the JSON of ``featx predict --json``.

    It shows its rows as the shell does.

    Parameters
    ----------
    predicted, failed
        How many images have a label, and how many could not be read.
    labels
        How often each class was given.
    failures
        ``id -> reason``.
    unfamiliar
        How many images lie farther from the training images than all but a share of them
        (`unfamiliar_at`) lie from each other; None where nothing is known of these.
    out
        The file with a row for each image, if one was asked for.
    rows
        The same rows, if none was.
    """

    predicted: int
    failed: int
    labels: dict[str, int]
    failures: dict[str, str] = field(repr=False)
    out: str | None = None
    rows: list[Row] = field(default_factory=list, repr=False)
    unfamiliar: int | None = None

    def to_dict(self) -> JsonObject:
        """JSON-ready values."""
        names = ("predicted", "failed", "unfamiliar", "out", "labels", "failures")
        return {name: getattr(self, name) for name in names}

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each image: id, path, label, probabilities, error."""
        import pandas as pd

        if self.out is None:
            return pd.DataFrame(self.rows)
        suffix = Path(self.out).suffix.lower()
        if suffix == ".csv":
            return pd.read_csv(self.out, dtype={"id": str, "path": str})
        if suffix in (".parquet", ".pq"):
            return pd.read_parquet(self.out)
        return pd.read_json(self.out, lines=True, dtype={"id": str, "path": str})

    def __repr__(self) -> str:
        return prediction_sheet(self).text()

    def _repr_html_(self) -> str:
        return prediction_sheet(self).html()


def predict(
    model: Model,
    source: object,
    *,
    out: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    force: bool = False,
    safe: bool = False,
    unfamiliar_at: float = RATE,
    options: dict[str, Any] | None = None,
) -> Prediction:
    """Label every image of `source`; see `featx.model.Model.predict`.

    Parameters
    ----------
    safe
        Whether text of a CSV file is kept from being a formula.
    unfamiliar_at
        Share of pictures like those of the training that may be called unfamiliar.
    options
        Fields of `featx.extraction.options.ExtractOptions` that change no value, and `weights` or
        `backbone` where they are not None.
    """
    if isinstance(source, str | os.PathLike) and is_cache(Path(source)):
        with open_cache(source) as held:
            how: dict[str, Any] = {"out": out, "force": force, "safe": safe}
            return predict(model, held, unfamiliar_at=unfamiliar_at, **how)
    require_rate(unfamiliar_at)
    near = likeness_of(model)
    near = None if near is None else near.at(unfamiliar_at)
    target = None if out is None else Path(out)
    if target is not None:
        require_rows_target(target, source, model.path, force=force, safe=safe)
    given = as_source(source, model)
    if isinstance(given, np.ndarray):
        return _label(model, GivenFeatures(given), target, near, safe)
    if isinstance(given, Cache):
        model.require_cache(given)
        return _label(model, given, target, near, safe)
    if cache is None and (few := _few(given, target, model)) is not None:
        network = ModelNetwork(model, same_options(model, options or {}), few)
        return _label(model, network.embed(), target, near, safe)
    chosen = require_same_features(model, options or {})
    with _place(target, cache, model.fingerprint) as place:
        from featx.extraction.extraction import extract

        try:
            extract(given, place, **chosen)
        except ExtractError as error:
            if not error.failures or chosen.get("on_error") == "fail":
                raise
            return _label(model, GivenFeatures.none(model, error.failures), target, near, safe)
        with open_cache(place) as found:
            model.require_cache(found, precision=False)
            return _label(model, found, target, near, safe)


def _few(given: object, target: Path | None, model: Model) -> Any:
    """Give a source of few pictures, which are embedded in memory; None for any other.

    What an interrupted run has left beside `target` is gone on from.
    """
    if target is not None:
        place = _beside(target, model.fingerprint)
        if place.exists() or parts_folder(place).exists():
            return None
    if isinstance(given, list):
        return given if len(given) <= _FEW else None
    if not isinstance(given, str | os.PathLike) or not Path(given).is_dir():
        return None
    below = (name for _, _, names in os.walk(os.fspath(given), followlinks=True) for name in names)
    return given if len(list(islice(below, _FEW + 1))) <= _FEW else None


def _beside(target: Path, fingerprint: str) -> Path:
    """Where features lie while a table is made."""
    target = behind(target)
    return target.with_name(f".{target.name}.{fingerprint[:8]}.h5")


@contextmanager
def _place(
    target: Path | None, cache: str | os.PathLike[str] | None, fingerprint: str
) -> Iterator[Path]:
    """Where the features go while they are needed."""
    if cache is not None:
        yield Path(cache)
    elif target is None:
        with scratch_folder() as folder:
            yield folder / "features.h5"
    else:
        place = _beside(target, fingerprint)
        yield place
        # Not in a finally: an interrupted run goes on from what it leaves.
        _remove_features(place)
        for left in _left_behind(behind(target)):
            _remove_features(left)


def _left_behind(target: Path) -> list[Path]:
    """List the features that runs of other models left beside `target` when they were killed."""
    own = re.compile(rf"(\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.h5)(\.parts|\.lock)?")
    found = (own.fullmatch(path.name) for path in target.parent.glob(f".{escape(target.name)}.*"))
    return [target.with_name(name) for name in sorted({one[1] for one in found if one})]


def _remove_features(place: Path) -> None:
    """Remove features that nobody needs any more; those of a run that lives are locked and stay."""
    with suppress(CacheError), WriterLock(place):
        place.unlink(missing_ok=True)
        remove_parts(place)


def _label(
    model: Model,
    cache: Cache | GivenFeatures,
    target: Path | None,
    near: Likeness | None,
    safe: bool = False,
) -> Prediction:
    counts: Counter[str] = Counter()
    kept: list[Row] = []
    with Progress(len(cache), "predict", unit="rows") as show:
        if target is None:
            for rows in _rows(model, cache, counts, near):
                kept += rows
                show.step(len(rows))
        else:
            with open_rows(target, columns_of(model), safe=safe) as writer:
                for rows in _rows(model, cache, counts, near):
                    writer.write(rows)
                    show.step(len(rows))
    labels = {name: counts[name] for name in model.classes if name in counts}
    return Prediction(
        predicted=len(cache),
        failed=len(cache.failed),
        labels=labels,
        failures=cache.failed,
        out=None if target is None else os.fspath(target),
        rows=kept,
        unfamiliar=None if near is None else counts[_UNFAMILIAR],
    )


def columns_of(model: Model) -> dict[str, type]:
    """Name and type of each column of the table of predictions."""
    label = str if model.classes else float
    probable = model.classes and hasattr(model.estimator, "predict_proba")
    scores = {f"p_{name}": float for name in model.classes} if probable else {}
    abstained = {"abstained": bool} if model.thresholds else {}
    sets = {"set": str} if model.sets else {}
    near = {"unfamiliar": bool, "nearest": str, "nearest_label": label}
    sure = {"confidence": float, **near, **scores, **abstained, **sets}
    return {"id": str, "path": str, "label": label, **sure, "error": str}


def label_rows(model: Model, X: NDArray[np.float32]) -> list[Row]:
    """Label features: label, confidence, probabilities and abstaining, as plain values.

    Parameters
    ----------
    X
        Shape (n, n_features), of the model's tap.
    """
    thresholds, found = model.thresholds, model.score(X)
    decided, abstained = decide(thresholds, model.classes, found)
    scored = [name for name in columns_of(model) if name.startswith("p_")]
    # Plain Python values: the writers know no numpy.
    several = model.task == "multilabel"
    labels = joined_labels(decided, model.classes) if several else decided.tolist()
    rows: list[Row] = [{"label": label} for label in labels]
    if found.probabilities is not None:
        table = found.probabilities.tolist()
        for row, line in zip(rows, table, strict=True):
            row["confidence"] = None if several else max(line)
            row.update(zip(scored, line, strict=True))
    if thresholds:
        for row, left in zip(rows, abstained.tolist(), strict=True):
            row["abstained"] = left
    if model.sets and found.probabilities is not None:
        inside = members(model.sets["classes"], model.classes, found.probabilities)
        named = joined_labels(inside.astype(np.int8), model.classes)
        for row, names in zip(rows, named, strict=True):
            row["set"] = names
    return rows


def _rows(
    model: Model, cache: Cache | GivenFeatures, counts: Counter[str], near: Likeness | None
) -> Iterator[list[Row]]:
    blank: Row = dict.fromkeys(columns_of(model))
    start = 0
    for X in cache.tap(model.tap).batches(_BATCH):
        labelled = label_rows(model, X)
        if near is not None:
            counts[_UNFAMILIAR] += _add_nearest(labelled, X, near)
        names = [str(row["label"]) for row in labelled if model.classes]
        if model.task == "multilabel":
            names = [one for name in names for one in name.split(SEPARATOR)]
        counts.update(names)
        yield [
            {**blank, "id": cache.ids[k], "path": cache.paths[k], **row}
            for k, row in enumerate(labelled, start)
        ]
        start += len(labelled)
    failed = list(cache.failed.items())
    for at in range(0, len(failed), _BATCH):
        yield [{**blank, "id": name, "error": why} for name, why in failed[at : at + _BATCH]]


def _add_nearest(rows: list[Row], X: NDArray[np.float32], near: Likeness) -> int:
    """Name the nearest training image of each row; count those that lie far from all."""
    n = 0
    for start in range(0, len(rows), _NEAR_BATCH):
        some = slice(start, start + _NEAR_BATCH)
        found, distances = near.nearest(np.asarray(X[some], dtype=np.float32), 1)
        for row, k, distance in zip(rows[some], found[:, 0], distances[:, 0], strict=True):
            far = bool(distance > near.limit)
            n += far
            row |= {"unfamiliar": far, "nearest": near.names[k], "nearest_label": near.labels[k]}
    return n
