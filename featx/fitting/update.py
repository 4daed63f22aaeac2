"""More rows for a model: from stored sums where its head is ridge or LDA, without the old rows."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from featx.cache.cache import Cache
from featx.errors import FeatxError, FitError, ModelError
from featx.fitting.growing import Grown, closed_form
from featx.fitting.options import FitOptions
from featx.fitting.samples import Samples
from featx.heads import HEADS, Head, make_norm
from featx.model.archive import SUMS
from featx.model.model import Model
from featx.model.rowsums import RowSums
from featx.seen import digest_seen
from featx.selection.candidates import plain_names
from featx.selection.multilabel import against_rest


def head_of(model: Model) -> Head:
    """Give the head of a model with the settings that were chosen for it.

    Raises
    ------
    ModelError
        If it is not one of featx's own: what a file names is never imported.
    """
    name, chosen = str(model.meta["head"]), model.figures.get("chosen", {})
    params = chosen.get("params", {}) if isinstance(chosen, dict) else {}
    try:
        head = HEADS[name]
        grid = {
            k: [make_norm(v, head.then) if k == "scale" else v]
            for k, v in plain_names(params).items()
            if k != "clf"
        }
        head.build().set_params(**{k: v for k, (v,) in grid.items()})
    except (KeyError, ValueError, FeatxError, AttributeError, TypeError):
        raise ModelError(
            f"the head of {model.name} is {name!r}, which cannot be fitted again from what the "
            "file says; fit it on all rows with `featx fit --head`"
        ) from None
    if params.get("clf") == "one-vs-rest":
        [grid] = against_rest(head.build(), [grid])
    return replace(head.with_grid(grid) if grid else head, against_rest=False)


def options_of(model: Model, given: FitOptions) -> FitOptions:
    """Give the options of the fit that made a model, with those of this call that it may change.

    Raises
    ------
    FitError
        If another option is given.
    ModelError
        If the file holds an option that featx does not have.
    """
    if changed := list(given.changed()):
        flag = "--" + changed[0].replace("_", "-")
        raise FitError(f"an update keeps the model's own settings; leave out {flag}")
    known = model.meta.get("fit_options", {})
    own = {"tap": model.tap, "label": model.meta.get("label")}
    try:
        return FitOptions(**{**known, **own, "force": given.force, "fetch": given.fetch})
    except (TypeError, FeatxError):
        raise ModelError(f"{model.name} is damaged: its options are not those of a fit") from None


def new_rows(model: Model, cache: Cache, samples: Samples, sums: RowSums) -> Samples:
    """Leave out the rows that a model was fitted on.

    Raises
    ------
    FitError
        If none is new, or one that is known has other content or another label now.
    ModelError
        If the vectors have another width.
    """
    width = int(model.estimator.n_features_in_)
    if samples.n_features != width:
        raise ModelError(
            f"{model.name} takes {width} features a row, and {cache.path} has {samples.n_features}"
        )
    asked, _ = digest_seen(samples.ids.tolist(), samples.digests)
    by = ["id", "content"] if cache.has_own_ids else ["content"]
    order = np.argsort(model.seen[by[0]], kind="stable")
    known = model.seen[order]
    place = np.minimum(np.searchsorted(known[by[0]], asked[by[0]]), len(known) - 1)
    there = known[by[0]][place] == asked[by[0]]
    changed = there & (known["content"][place] != asked["content"])
    if changed.any():
        raise FitError(
            f"{samples.ids[changed.argmax()]!r} is another picture than when {model.name} was "
            f"fitted ({int(changed.sum())} such rows); fit again on all rows with `featx fit`"
        )
    old = np.array([model.classes[k] for k in sums.y], str) if model.classes else sums.y
    other = there & (old[order][place] != samples.y)
    if other.any() and cache.has_own_ids:
        k = int(other.argmax())
        raise FitError(
            f"{samples.ids[k]!r} is {samples.y[k]!s} now and was {old[order][place[k]]!s} when "
            f"{model.name} was fitted ({int(other.sum())} such rows); fit again on all rows with "
            "`featx fit`"
        )
    found = samples.keep(~there, "in the model already")
    if found.split is not None:
        found = found.keep(found.split != "test", "test rows of the split")
    if not len(found):
        raise FitError(f"{model.name} has no row to take in: it was fitted on all of {cache.path}")
    return found


def require_all(model: Model, cache: Cache, why: str) -> None:
    """Refuse to fit a model again on a cache that lacks rows that it was fitted on.

    Raises
    ------
    FitError
        With the number of rows.
    """
    asked, _ = digest_seen(list(cache.ids), cache.content_digests)
    lacking = int((~np.isin(model.seen["content"], asked["content"])).sum())
    if lacking:
        raise FitError(
            f"{why}, so it needs its old rows too, and {cache.path} lacks {lacking} of "
            f"{len(model.seen)}; extract old and new rows into one cache"
        )


def refit_reason(model: Model) -> str:
    """Say why a model cannot take rows in from sums; empty where it can.

    Raises
    ------
    FitError
        If it has thresholds or sets, which hold for the head that they were chosen for.
    """
    if model.thresholds or model.sets:
        raise FitError(
            f"{model.name} has thresholds or sets, which hold for the head that they were chosen "
            "for; fit again on all rows with `featx fit`"
        )
    head = str(model.meta["head"])
    if closed_form(model.estimator) is None:
        return f"head {head} cannot take rows in from sums"
    return "" if SUMS in model.members else f"{model.name} holds no sums of its rows"


def grown_model(old: Model, new: Model, grown: Grown) -> Model:
    """Join a model with what was learnt from more rows.

    Parameters
    ----------
    new
        Described as if it had been fitted on the new rows alone.
    """
    meta = {**new.meta, "classes": grown.classes, "n_train": len(grown.sums.y)}
    counts = np.bincount(grown.sums.y.astype(np.intp)).tolist() if grown.classes else []
    typical = grown.classes[int(np.argmax(counts))] if counts else float(grown.sums.y.mean())
    meta |= {"typical": typical, "fit_options": old.meta.get("fit_options", {})}
    meta |= {"class_counts": counts} if counts else {}
    before = [old.meta.get("train_ids_sha256", ""), new.meta["train_ids_sha256"]]
    meta["train_ids_sha256"] = hashlib.sha256("\n".join(before).encode()).hexdigest()
    known = {"cache": old.meta.get("cache"), "rows": old.meta["n_train"]}
    meta["updates"] = [*old.meta.get("updates", []), known]
    return replace(
        new,
        meta=meta,
        seen=np.concatenate([old.seen, new.seen]),
        members={k: v for k, v in old.members.items() if k != SUMS} | grown.sums.members(),
    )
