"""From a measured head to a model: what it keeps, its file and its report."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from featx.cache.cache import Cache
from featx.fitting.contenders import Contender
from featx.fitting.figures import FitResult
from featx.fitting.measuring import MeasuredHead
from featx.fitting.options import FitOptions
from featx.fitting.publishing import (
    keep_for_report,
    report_data,
)
from featx.fitting.samples import Samples
from featx.labels import joined_labels
from featx.model.likeness import Likeness, make_likeness
from featx.model.model import Model
from featx.model.modelfile import describe_model, save_model
from featx.reporting import write_report
from featx.seen import digest_seen
from featx.selection.checks import warn
from featx.sources.addresses import fetching
from featx.sources.remote import is_url
from featx.typing import JsonObject


def make_model(
    cache: Cache, samples: Samples, measured: MeasuredHead, options: FitOptions
) -> Model:
    """Make the model of a measured head, with its answers for the test rows."""
    train = measured.trained
    seen, names = digest_seen(samples.ids[train].tolist(), samples.digests[train])
    meta = describe_model(
        cache,
        head=measured.kept.head,
        task=samples.task,
        classes=samples.classes,
        tap=samples.tap,
        label=options.label,
    )
    if samples.task == "classification":
        counted = [int((samples.y[train] == name).sum()) for name in samples.classes]
        meta["class_counts"] = counted
    meta |= {"n_train": len(train), "train_ids_sha256": names, "typical": _typical(samples, train)}
    scores, test = measured.scores, measured.test
    tested: JsonObject = {
        "ids": samples.ids[test].tolist(),
        "y": samples.y[test].tolist(),
        "predicted": scores.predicted.tolist(),
    }
    if scores.probabilities is not None:
        tested["probabilities"] = scores.probabilities.tolist()
    return Model(
        estimator=measured.kept.estimator,
        spec=cache.spec,
        meta=meta,
        figures={},
        seen=seen,
        tested=tested,
    )


def _typical(samples: Samples, train: NDArray[np.intp]) -> str | float | list[int]:
    """The constant answer: the majority class, the mean, or the labels of most rows."""
    if samples.task == "regression":
        return float(samples.y[train].mean())
    if samples.task == "multilabel":
        return [int(share >= 0.5) for share in samples.y[train].mean(axis=0)]
    classes, counts = np.unique(samples.y[train], return_counts=True)
    return str(classes[counts.argmax()])


def likeness_members(
    samples: Samples, trained: NDArray[np.intp], before: Likeness | None = None
) -> dict[str, bytes]:
    """Keep what the table of predictions says of the training images, after those of `before`."""
    y = samples.y[trained]
    labels = joined_labels(y, samples.classes) if y.ndim == 2 else y.tolist()
    return make_likeness(
        lambda at: samples.take(trained[at]), samples.ids[trained], labels, before=before
    )


def not_fetched(cache: Cache) -> list[dict[str, str]]:
    """Say which pictures would have been fetched from addresses that a cache names."""
    far = [path for path in cache.paths if is_url(path)]
    if not far:
        return []
    return [
        warn(
            "not-fetched",
            f"the cache names {len(far)} pictures behind addresses, the first {far[0]}; none was "
            "fetched, so the model has no reference images of them and the report does not show "
            "them: pass --fetch if the cache is to be trusted",
        )
    ]


def publish_fit(
    won: Contender,
    measured: MeasuredHead,
    result: FitResult,
    options: FitOptions,
    line: str,
    out: str | os.PathLike[str] | None,
    report: str | os.PathLike[str] | None,
) -> FitResult:
    """Write what was asked for: the model, and its report."""
    model = result.model
    assert model is not None
    result = replace(result, path=None if out is None else os.fspath(out))
    if out is not None or report is not None:
        method = "pca" if report is None else "auto"
        with fetching(options.fetch):
            kept = keep_for_report(won.cache, won.samples, measured, line, options.seed, method)
        model.kept.update(kept)
    model.figures.update(result.to_dict())
    if out is not None:
        save_model(model, out)
    if report is not None:
        write_report(report, report_data(model))
    return result
