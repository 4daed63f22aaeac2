"""Weighted votes of the nearest neighbours, as DINOv2 counts them."""

from __future__ import annotations

import numpy as np

from featx.evaluation import evaluate
from featx.protocols.rules import Array, Floats, Predictions, Protocol, ProtocolRows, l2
from featx.typing import JsonObject

TEMPERATURE = 0.07
PAPER_K = 20


def _dinov2_knn(protocol: Protocol, rows: ProtocolRows) -> JsonObject:
    """Vote with weights exp(similarity / T); k is 20 unless there are validation rows.

    As in dinov2/eval/knn.py, with its k of 10, 20, 100 and 200 and T of 0.07. Oquab et al. 2023,
    arXiv 2304.07193.
    """
    X = l2(rows.X)
    train, validation, test = rows.split
    usable = [int(k) for k in protocol.values if k <= len(train)] or [len(train)]
    tried, k = [], min(PAPER_K, usable[-1])
    if validation is not None:
        called = knn_vote(X[train], rows.y[train], X[validation], usable)
        tried = [[n, float(np.mean(called[n] == rows.y[validation]))] for n in usable]
        k = int(max(tried, key=lambda pair: pair[1])[0])
    called = knn_vote(X[train], rows.y[train], X[test], sorted({*usable, k}))
    shares = knn_shares(X[train], rows.y[train], X[test], [k])[k]
    table = np.zeros((len(test), len(np.unique(rows.y))))
    table[:, np.searchsorted(np.unique(rows.y), np.unique(rows.y[train]))] = shares
    by_k = {n: evaluate(rows.y[test], called[n], **rows.resampling)["accuracy"] for n in called}
    return {
        "called": Predictions(called[k], scores=table[:, 1] if table.shape[1] == 2 else table),
        "metric": "accuracy",
        "figure": by_k[k],
        "chosen": {"k": k, "temperature": TEMPERATURE},
        "tried": tried,
        "by_k": {str(n): by_k[n] for n in by_k},
        "n_train": len(train),
        "n_validation": 0 if validation is None else len(validation),
    }


def knn_vote(X_train: Array, y_train: Array, X: Array, ks: list[int]) -> dict[int, Array]:
    """Call each row's class by the weighted vote of its k nearest, for several k at once.

    Parameters
    ----------
    X_train, X
        Rows of length one, shapes (n_train, n_features) and (n, n_features).
    ks
        Each at most n_train.

    Returns
    -------
    called : for each k the classes, shape (n,)
    """
    classes = np.unique(y_train)
    shares = knn_shares(X_train, y_train, X, ks)
    return {k: classes[votes.argmax(axis=1)] for k, votes in shares.items()}


def knn_shares(X_train: Array, y_train: Array, X: Array, ks: list[int]) -> dict[int, Floats]:
    """Give each class's share of the weighted vote; see `knn_vote`.

    Returns
    -------
    shares : for each k, shape (n, n_classes), classes sorted
    """
    classes, codes = np.unique(y_train, return_inverse=True)
    found = {k: np.empty((len(X), len(classes))) for k in ks}
    for start in range(0, len(X), 1024):
        similar = X[start : start + 1024] @ X_train.T
        near = np.argsort(-similar, axis=1, kind="stable")[:, : max(ks)]
        weight = np.exp(np.take_along_axis(similar, near, axis=1) / TEMPERATURE)
        votes = weight[:, :, None] * (codes[near][:, :, None] == np.arange(len(classes)))
        for k in ks:
            total = votes[:, :k].sum(axis=1)
            found[k][start : start + 1024] = total / total.sum(axis=1, keepdims=True)
    return found


DINOV2_KNN = Protocol(
    "dinov2-knn",
    "short side 256, centre crop 224; length one; k of 10, 20, 100, 200 (20 without validation "
    "rows); votes exp(cos / 0.07)",
    "Oquab et al. 2023, arXiv 2304.07193",
    _dinov2_knn,
    (10, 20, 100, 200),
    asks={
        "resize": "crop",
        "resize_size": [256, 256],
        "input_size": [224, 224],
        "interpolation": "bicubic",
        "views": ["none"],
    },
)
