"""The linear, nearest-neighbour and SVM protocols by which papers judge frozen features.

Each protocol is a frozen list of rules (values to try, normalisation, what is refitted) and a
function on arrays. Preprocessing belongs to the extraction and is only said in ``rule``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike
from sklearn.exceptions import ConvergenceWarning

from featx.errors import FitError, nearest
from featx.protocols.logistic import CLIP, DINOV2_LOGREG, KORNBLITH
from featx.protocols.machines import K_SHOT, RAZAVIAN, VISSL, VISSL_LOW_SHOT
from featx.protocols.neighbours import DINOV2_KNN
from featx.protocols.rules import Protocol, accuracies, check
from featx.selection.splits import Split
from featx.typing import JsonObject

__all__ = ["PROTOCOLS", "Protocol", "get_protocol", "run_protocol"]

_ALL = (KORNBLITH, CLIP, DINOV2_LOGREG, DINOV2_KNN, VISSL, RAZAVIAN, VISSL_LOW_SHOT, K_SHOT)

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({p.name: p for p in _ALL})
"""The protocols by name."""


def run_protocol(
    name: str,
    X: ArrayLike,
    y: ArrayLike,
    split: Split | ArrayLike,
    *,
    metric: str | None = None,
    shots: Sequence[int] | None = None,
    episodes: int | None = None,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> JsonObject:
    """Choose, refit and measure features as a paper does.

    The test rows are used once, after every choice.

    Parameters
    ----------
    name
        One of ``PROTOCOLS``.
    X
        Float, shape (n_samples, n_features); for ``razavian`` also (n_samples, n_views,
        n_features).
    y
        Shape (n_samples,), or 0 and 1 of shape (n_samples, n_labels) where rows have several.
    split
        ``train``, ``validation`` or ``test`` for each row, or a ``Split`` of row numbers.
    metric
        Of ``kornblith``: ``accuracy``, ``per-class`` (Aircraft, Pets, Caltech-101 and Flowers in
        the paper) or ``11-point`` (VOC 2007; the default where rows have several labels).
    shots, episodes
        Of ``k-shot`` and ``vissl-low-shot``: training rows of each class, and draws of each number;
        their own when None.
    groups
        Group of each row; the intervals resample whole groups of test rows then.
    seed
        Of every draw of rows.

    Returns
    -------
    result : dict
        ``protocol``, ``metric``, ``figure`` ({"value", "low", "high"}), ``chosen``, ``tried``
        (pairs of value and validation score), ``n_train``, ``n_validation``, ``n_test``, and what
        the protocol adds (``per_class``, ``by_k``); ``measured``: every metric of
        `featx.evaluation.evaluate` on the same test rows. JSON-ready.

    Raises
    ------
    FitError
        For an unknown protocol, shapes that do not fit, or labels that it is not made for.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> found = run_protocol("dinov2-knn", X, y, ["train", "train", "test"] * 599)
    >>> found["figure"]["value"] > 0.95
    True
    """
    protocol = get_protocol(name)
    options = {"metric": metric, "shots": shots, "episodes": episodes}
    of = None if groups is None else np.asarray(groups)
    rows = check(protocol, np.asarray(X, np.float32), np.asarray(y), split, seed, options, of)
    with warnings.catch_warnings():
        # Every paper stops after so many steps; small penalties are rarely done by then.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = protocol.run(protocol, rows)
    measured = accuracies(found.pop("called"), rows)
    return {"protocol": name, "n_test": len(rows.split.test), **found, "measured": measured}


def get_protocol(name: str) -> Protocol:
    """Find a protocol by name.

    Raises
    ------
    FitError
        With the nearest name.
    """
    if name not in PROTOCOLS:
        hint = nearest(name, PROTOCOLS)
        raise FitError(f"no protocol is called {name!r}{hint} (there are {', '.join(PROTOCOLS)})")
    return PROTOCOLS[name]
