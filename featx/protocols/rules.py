"""The definition of a protocol, and its input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from featx.errors import FitError
from featx.evaluation import evaluate
from featx.evaluation import metrics as m
from featx.evaluation.resampling import draw_weights, interval
from featx.selection.splits import Split, make_split
from featx.typing import JsonObject

Array = NDArray[Any]
Floats = NDArray[np.float64]

PROTOCOL_OPTIONS = ("metric", "shots", "episodes")
"""Of `featx.protocols.run_protocol`, beside the seed."""

N_BOOT = 1000
"""Bootstrap samples behind each interval."""


@dataclass(frozen=True)
class Protocol:
    """One protocol and its rules.

    Parameters
    ----------
    name
        What the user types.
    rule
        All of it in a line, the preprocessing included.
    source
        Where it was published.
    values
        What is tried: penalties (``lambda``), costs (``C``) or neighbours.
    validation_share
        Share of the training rows that is held out for the choice where the split names none.
    refit
        Whether the chosen value is fitted again on training and validation rows.
    max_iter
        Of the solver.
    draws_validation
        How validation rows are drawn where the split names none: in the shares of the classes, or
        at random; None where the protocol chooses without them.
    asks
        What the paper says of the pictures, by the fields of `featx.preprocess.Preprocess`.
    views
        Whether every view of a picture may be a row of its own.
    options
        Of `run_protocol`, beside the seed, that it reads.
    episodes
        Draws of each number of rows, where few are drawn.
    costs
        What is tried in each of them.
    """

    name: str
    rule: str
    source: str
    run: Callable[[Protocol, ProtocolRows], JsonObject] = field(repr=False)
    values: tuple[float, ...]
    validation_share: float = 0.2
    refit: bool = True
    max_iter: int = 1000
    draws_validation: Literal["stratified", "random"] | None = None
    asks: Mapping[str, Any] = field(default_factory=dict)
    views: bool = False
    options: tuple[str, ...] = ()
    episodes: int = 1
    costs: tuple[float, ...] = ()


@dataclass(frozen=True)
class ProtocolRows:
    """The input of a protocol; ``y`` has one column a label where rows may have several."""

    X: Array
    y: Array
    split: Split
    seed: int
    metric: str | None = None
    shots: tuple[int, ...] = ()
    episodes: int | None = None
    groups: Array | None = None

    @property
    def resampling(self) -> JsonObject:
        """How the intervals of test rows are made, for `featx.evaluation.evaluate`."""
        groups = None if self.groups is None else self.groups[self.split.test]
        return {"seed": self.seed, "n_boot": N_BOOT, "groups": groups}

    def weights(self) -> Iterator[Floats]:
        """Yield bootstrap weights of the test rows."""
        how = self.resampling
        return draw_weights(len(self.split.test), N_BOOT, self.seed, how["groups"])

    @property
    def learnt(self) -> Array:
        """Training and validation rows, sorted."""
        if self.split.validation is None:
            return self.split.train
        return np.sort(np.r_[self.split.train, self.split.validation])

    @property
    def indicator(self) -> Array:
        """Truth of each class: bool, shape (n_samples, n_classes)."""
        if self.y.ndim == 2:
            return np.asarray(self.y > 0)
        return np.asarray(self.y[:, None] == np.unique(self.y)[None, :])

    def chosen_on(self, share: float) -> tuple[Array, Array]:
        """Training and validation rows; these are drawn from those where the split names none."""
        if self.split.validation is not None:
            return self.split.train, self.split.validation
        order = np.random.default_rng(self.seed).permutation(self.split.train)
        n = max(1, int(share * len(order) + 1e-9))
        return np.sort(order[n:]), np.sort(order[:n])


def check(
    protocol: Protocol,
    X: Array,
    y: Array,
    split: Any,
    seed: int,
    options: Mapping[str, Any],
    groups: Array | None = None,
) -> ProtocolRows:
    """Check what a protocol is given, and read the split."""
    require_options(protocol, options)
    wanted = (2, 3) if protocol.views else (2,)
    if X.ndim not in wanted:
        kinds = "(n_samples, n_features)" + (" or with views" if 3 in wanted else "")
        raise FitError(f"{protocol.name} takes features of shape {kinds}, got {X.shape}")
    if len(X) != len(y):
        raise FitError(f"there are {len(X)} rows of features and {len(y)} labels; expected as many")
    if not np.isfinite(X).all():
        raise FitError("features hold NaN or infinity; extract these again or leave them out")
    if y.ndim == 2 and protocol.name in ("clip", "dinov2-logreg", "dinov2-knn", "k-shot"):
        raise FitError(f"{protocol.name} is for one label a row, got labels of shape {y.shape}")
    parts = split if isinstance(split, Split) else make_split(np.zeros(len(y)), split=split)
    if y.ndim == 1 and len(np.unique(y[parts.train])) < 2:
        raise FitError("the training rows hold one class; a protocol needs two")
    return ProtocolRows(
        X,
        y,
        parts,
        seed,
        metric=options["metric"],
        shots=tuple(options["shots"] or ()),
        episodes=options["episodes"],
        groups=groups,
    )


def require_options(protocol: Protocol, options: Mapping[str, Any]) -> None:
    """Refuse options that a protocol does not read, and values that it cannot.

    Raises
    ------
    FitError
        Naming the option.
    """
    for name, value in options.items():
        if value is not None and name not in protocol.options:
            raise FitError(f"--protocol {protocol.name} has no --{name}; leave it out")
    shots, episodes = options["shots"], options["episodes"]
    if shots is not None and (not len(shots) or min(shots) < 1):
        raise FitError(f"--shots is {','.join(map(str, shots))}; expected 1 or more, as 1,2,4,8")
    if episodes is not None and episodes < 2:
        raise FitError(f"--episodes is {episodes}; an interval takes 2 or more")


@dataclass(frozen=True)
class Predictions:
    """Predictions of a protocol for the test rows.

    Parameters
    ----------
    predicted
        Shape (n_test,); 0 and 1 of shape (n_test, n_labels) where rows have several.
    probabilities
        Shape (n_test, n_classes), classes sorted; None where the protocol has none.
    scores
        Decision values or votes of the same shape, where there are no probabilities.
    """

    predicted: Array
    probabilities: Floats | None = None
    scores: Floats | None = None


def accuracies(called: Predictions, rows: ProtocolRows) -> JsonObject:
    """Measure what every classifier is measured by, beside the protocol's own metric."""
    several = rows.y.ndim == 2
    classes = None if several else np.unique(rows.y)
    found = evaluate(
        rows.y[rows.split.test],
        called.predicted,
        probabilities=called.probabilities,
        scores=called.scores,
        classes=classes,
        task="multilabel" if several else "classification",
        **rows.resampling,
    )
    return found


def logspace(low: float, high: float, n: int) -> tuple[float, ...]:
    """Make n powers of ten, evenly spaced."""
    return tuple(float(v) for v in np.logspace(low, high, n))


def l2(X: Array) -> Array:
    """Scale the last axis to length one; zeros stay zeros."""
    length = np.linalg.norm(X, axis=-1, keepdims=True)
    return np.asarray(X / np.where(length > 0, length, 1))


def signed_power(X: Array, power: float = 0.5) -> Array:
    """Raise magnitudes to a power and keep the signs."""
    return np.asarray(np.sign(X) * np.abs(X) ** power)


def ap11(positive: NDArray[np.bool_], scores: Floats) -> m.Metric:
    """Make VOC 2007's average precision: the mean over 11 recalls of the best precision there."""
    order = np.argsort(-scores, kind="stable")
    mask = positive[order].astype(np.float64)

    def metric(w: Floats) -> Floats:
        hits = np.cumsum(w[:, order] * mask, axis=1)
        precision = np.nan_to_num(m.ratio(hits, np.cumsum(w[:, order], axis=1)))
        recall = m.ratio(hits, np.broadcast_to(hits[:, -1:], hits.shape))
        # A recall of 0.7 must count as reached when rounding makes it 0.69999.
        best = [
            np.where(recall >= t - 1e-9, precision, 0).max(axis=1) for t in np.linspace(0, 1, 11)
        ]
        return np.asarray(np.where(hits[:, -1] > 0, np.mean(best, axis=0), np.nan))

    return metric


def ap_interpolated(positive: NDArray[np.bool_], scores: Floats) -> m.Metric:
    """Make the area below precision and recall, each precision the best at its recall or above.

    So VISSL counts (``calculate_ap`` in its vissl/utils/svm_utils/evaluate.py), after the VOC
    development kit of 2010. scikit-learn's average precision does not interpolate.
    """
    order = np.argsort(-scores, kind="stable")
    mask = positive[order].astype(np.float64)

    def metric(w: Floats) -> Floats:
        each = w[:, order] * mask
        hits = np.cumsum(each, axis=1)
        precision = np.nan_to_num(m.ratio(hits, np.cumsum(w[:, order], axis=1)))
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        return m.ratio((each * best).sum(axis=1), hits[:, -1])

    return metric


def mean_precision(make: Any, truth: Array, scores: Floats) -> float:
    """Average over the classes that occur; scikit-learn's average precision when make is None."""
    there = np.flatnonzero(truth.any(axis=0))
    if make is None:
        return float(
            np.mean([average_precision_score(truth[:, k], scores[:, k]) for k in there])
        )  # fmt: skip
    one = np.ones((1, len(truth)))
    return float(np.mean([make(truth[:, k], scores[:, k])(one)[0] for k in there]))


def precision_figure(
    make: Any, truth: Array, scores: Floats, rows: ProtocolRows
) -> dict[str, float]:
    """Give the mean over the classes that occur in the test rows, with its interval."""
    each = [make(truth[:, k], scores[:, k]) for k in np.flatnonzero(truth.any(axis=0))]
    if not each:
        raise FitError("no test row is positive; average precision is not defined")
    n, groups = len(truth), rows.resampling["groups"]

    def mean(w: Floats) -> Floats:
        return m.mean_there(np.stack([metric(w) for metric in each], axis=1))

    samples = np.concatenate([mean(w) for w in rows.weights()])
    units = n if groups is None else len(np.unique(groups))
    return interval(float(mean(np.ones((1, n)))[0]), samples, "share", units)
