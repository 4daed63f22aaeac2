"""Drift: have pictures changed since the training? Features of a batch beside the training's."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.arguments import typed
from featx.auditing import unit_rows
from featx.auditing.shift import LEAST_ROWS, find_shift, share_interval, shares_p_value
from featx.cache.cache import Cache, open_cache
from featx.cache.folder import holds_cache
from featx.cache.h5file import is_cache
from featx.errors import FeatxError, ModelError, OptionError
from featx.files import scratch_folder
from featx.labels import joined_labels
from featx.model import Model
from featx.model.given import as_source
from featx.model.likeness import Likeness, likeness_of, require_rate
from featx.model.modelfile import load_model
from featx.model.prediction import predict
from featx.typing import JsonObject

_SHOWN = 10


@dataclass(frozen=True)
class MovedPicture:
    """A picture that lies nearer to its batch than to the training."""

    id: str
    score: float
    label: Any
    unfamiliar: bool
    nearest: str
    nearest_label: Any


@dataclass(frozen=True)
class Drift:
    """Changes between the training pictures and a batch.

    Parameters
    ----------
    drifted
        Whether `p_value` is at most `level`; nothing else decides.
    p_value, distance, level
        Of the energy test between the features of both.
    rows, training_rows
        Pictures of the batch and of the training that were compared.
    seen, copies, failed
        Pictures of the batch that are left out: those of the training, those that repeat another,
        and those that cannot be read.
    unfamiliar
        Share of the batch: ``value``, ``low``, ``high``, and ``expected`` without a change.
    predicted
        For each class its share of the predictions: ``before`` on the test rows of the training,
        and ``now``. Empty for a number.
    predicted_p_value
        Of the same shares before and now; None without a test set.
    moved
        The pictures that moved most, first.
    notes
        What else a reader should know.
    failures
        Each picture that cannot be read, with the reason.
    """

    drifted: bool
    p_value: float
    distance: float
    level: float
    rows: int
    training_rows: int
    seen: int
    copies: int
    failed: int
    unfamiliar: dict[str, float]
    predicted: dict[str, dict[str, float | None]]
    predicted_p_value: float | None
    moved: list[MovedPicture] = field(repr=False)
    notes: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict, repr=False)

    def to_dict(self) -> JsonObject:
        """JSON-ready values; of the pictures that failed their number."""
        found = asdict(self)
        del found["failures"]
        return found

    def __str__(self) -> str:
        verdict = "pictures have changed" if self.drifted else "no change was found"
        far = self.unfamiliar
        lines = [
            f"{verdict}: p = {self.p_value:.3g} (level {self.level:g}), {self.rows} pictures "
            f"beside {self.training_rows} of the training",
            f"  unfamiliar: {far['value']:.1%} ({far['low']:.1%} - {far['high']:.1%}); "
            f"{far['expected']:.1%} without a change",
        ]
        for name, share in self.predicted.items():
            before = "" if share["before"] is None else f"{share['before']:.1%} -> "
            lines.append(f"  predicted {name}: {before}{share['now']:.1%}")
        if self.predicted_p_value is not None:
            lines.append(f"  the same shares as on the test rows: p = {self.predicted_p_value:.3g}")
        if self.moved:
            lines.append("  moved most:")
        lines += [
            f"    {one.id}: {_text(one.label)}{', unfamiliar' if one.unfamiliar else ''}; "
            f"nearest {one.nearest} ({_text(one.nearest_label)})"
            for one in self.moved
        ]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def compare_rows(
    model: Model,
    near: Likeness,
    X: NDArray[np.float32],
    ids: list[str],
    *,
    level: float = 0.05,
    seed: int = 0,
) -> Drift:
    """Test rows that are already known to be features of the model; see `drift`.

    Parameters
    ----------
    near
        Rows of the training.
    X
        Shape (n, n_features), 20 rows or more.
    ids
        Of each row.
    """
    return _compare(model, near, _NewRows(X, ids), level, seed)


@dataclass(frozen=True, eq=False)
class _NewRows:
    """Features of a batch, float32 (n, n_features), without rows of the training and copies."""

    X: NDArray[np.float32]
    ids: list[str]
    seen: int = 0
    copies: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    precision: str = ""


@typed
def drift(
    model: Model | str | os.PathLike[str],
    source: Any,
    *,
    level: float = 0.05,
    unfamiliar_at: float = 0.01,
    cache: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    backbone: str | None = None,
    device: str = "auto",
    seed: int = 0,
) -> Drift:
    """Test whether the pictures of a batch are like those that a model was trained on.

    The verdict is one test, so that it is wrong on at most `level` of the batches without a change:
    the energy distance between the features of both, with its p-value by permutations. Everything
    else says what has changed. Whether the features are *computed* as those of the training is
    another question, which `predict` answers by the reference images of the model.

    Parameters
    ----------
    model
        From `featx.load_model`, or its file.
    source
        A cache of the model's features, or whatever `Model.predict` takes; 20 pictures at least.
    level
        Share of false alarms.
    unfamiliar_at
        Share of pictures like those of the training that count as unfamiliar.
    cache
        Where the features of pictures are kept; they are removed by default.
    weights, backbone
        Where the file of the weights, or the code of the network, lies now.
    device
        As in `featx.extract`.
    seed
        Random seed of the permutations.

    Returns
    -------
    found : Drift

    Raises
    ------
    FeatxError
        If fewer than 20 pictures are left.
    ModelError
        If the model holds no training vectors and its cache is not there, or the features are
        others.
    OptionError
        If `level` is not between 0.002 and 1.

    Examples
    --------
    >>> featx.drift("photos.featx", "june/").drifted  # doctest: +SKIP
    False
    """
    if not 0.002 <= level < 1:
        raise OptionError(f"level must lie between 0.002 and 1; got {level:g}")
    require_rate(unfamiliar_at)
    chosen = model if isinstance(model, Model) else load_model(model)
    near = likeness_of(chosen)
    if near is None:
        raise ModelError(
            f"{chosen.name} was written before models kept vectors of their training, and its "
            "cache is not beside it; fit it again, or put the cache there"
        )
    options = {"weights": weights, "backbone": backbone, "device": device, "progress": False}
    with _batch(chosen, source, cache, options) as batch:
        if len(batch.X) < LEAST_ROWS:
            left = f" after {batch.seen} of the training and {batch.copies} copies are left out"
            failed = f" ({len(batch.failures)} cannot be read)" if batch.failures else ""
            raise FeatxError(
                f"drift needs {LEAST_ROWS} pictures or more, and there are {len(batch.X)}"
                f"{left if batch.seen + batch.copies else ''}{failed}; collect more"
            )
        return _compare(chosen, near.at(unfamiliar_at), batch, level, seed)


@contextmanager
def _batch(
    model: Model, source: object, cache: str | os.PathLike[str] | None, options: dict[str, Any]
) -> Iterator[_NewRows]:
    """Read or compute the features of a batch."""
    if isinstance(source, str | os.PathLike) and is_cache(Path(source)):
        with open_cache(source) as opened:
            yield _of_cache(model, opened, precision=True)
        return
    given = as_source(source, model)
    if isinstance(given, np.ndarray):
        yield _distinct(given, [str(k) for k in range(len(given))])
    elif isinstance(given, Cache):
        yield _of_cache(model, given, precision=True)
    else:
        with scratch_folder() as folder:
            place = folder / "features.h5" if cache is None else Path(cache)
            predict(model, given, cache=place, options=options)
            if not holds_cache(place):
                raise FeatxError("no picture of the batch could be read")
            with open_cache(place) as opened:
                yield _of_cache(model, opened, precision=False)


def _of_cache(model: Model, cache: Cache, *, precision: bool) -> _NewRows:
    model.require_cache(cache, precision=precision)
    known = model.saw(list(cache.ids), cache.content_digests, by_name=False)
    rows = np.flatnonzero(~known)
    X = np.asarray(cache.tap(model.tap)[rows], dtype=np.float32)
    found = _distinct(X, [cache.ids[int(k)] for k in rows])
    return _NewRows(
        found.X,
        found.ids,
        seen=int(known.sum()),
        copies=found.copies,
        failures=dict(cache.failed),
        precision=cache.spec.precision,
    )


def _distinct(X: NDArray[np.float32], ids: list[str]) -> _NewRows:
    """Count rows that are equal once: copies are not evidence of their own."""
    _, first = np.unique(X, axis=0, return_index=True)
    kept = np.sort(first)
    return _NewRows(X[kept], [ids[k] for k in kept], copies=len(X) - len(kept))


def _compare(model: Model, near: Likeness, batch: _NewRows, level: float, seed: int) -> Drift:
    reference, rows = _as_kept(near.unit), _as_kept(unit_rows(batch.X))
    shift = find_shift(reference, rows, seed=seed)
    nearest, distances = _nearest(near, batch.X)
    far = distances > near.limit
    low, high = share_interval(int(far.sum()), len(far))
    labels = _predicted(model, batch.X)
    predicted, p_value = _classes(model, labels, seed)
    order = np.argsort(-shift.moved, kind="stable")[:_SHOWN]
    notes = []
    if batch.precision not in ("", model.spec.precision):
        notes.append(
            f"the batch was computed in {batch.precision} and the training in "
            f"{model.spec.precision}: a small part of the distance comes from that"
        )
    if model.task == "multilabel":
        labels = [text or "(none)" for text in labels]
    return Drift(
        drifted=shift.p_value <= level,
        p_value=shift.p_value,
        distance=shift.distance,
        level=level,
        rows=shift.n_batch,
        training_rows=shift.n_reference,
        seen=batch.seen,
        copies=batch.copies,
        failed=len(batch.failures),
        unfamiliar={"value": float(far.mean()), "low": low, "high": high, "expected": near.rate},
        predicted=predicted,
        predicted_p_value=p_value,
        moved=[
            MovedPicture(
                id=batch.ids[k],
                score=round(float(shift.moved[k]), 6),
                label=labels[k],
                unfamiliar=bool(far[k]),
                nearest=near.names[nearest[k]],
                nearest_label=near.labels[nearest[k]],
            )
            for k in order
        ],
        notes=notes,
        failures=batch.failures,
    )


def _as_kept(unit: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round rows as those of a model file are, so that rounding is not a difference."""
    return unit_rows(unit.astype(np.float16).astype(np.float32))


def _nearest(near: Likeness, X: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    parts = [near.nearest(X[start : start + 256], 1) for start in range(0, len(X), 256)]
    return np.concatenate([rows[:, 0] for rows, _ in parts]), np.concatenate(
        [distances[:, 0] for _, distances in parts]
    )


def _predicted(model: Model, X: NDArray[np.float32]) -> list[Any]:
    found = model.score(X).predicted
    return joined_labels(found, model.classes) if found.ndim == 2 else list(found.tolist())


def _classes(
    model: Model, labels: list[Any], seed: int
) -> tuple[dict[str, dict[str, float | None]], float | None]:
    """Give the share of each predicted class before and now, and the p-value of equal shares."""
    if model.task != "classification":
        return {}, None
    names, now = model.classes, Counter(map(str, labels))
    before = Counter(map(str, model.tested.get("predicted", [])))
    n_before, n_now = sum(before[name] for name in names), sum(now.values())
    shares: dict[str, dict[str, float | None]] = {
        name: {
            "before": round(before[name] / n_before, 6) if n_before else None,
            "now": round(now[name] / n_now, 6),
        }
        for name in names
    }
    if not n_before:
        return shares, None
    counts = np.array([[table[name] for name in names] for table in (before, now)])
    return shares, shares_p_value(counts, seed)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
