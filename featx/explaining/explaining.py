"""From a model and a picture to an explanation: exact where the head allows it, else by covers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from featx.auditing import nearest_rows
from featx.backbones import load_backbone
from featx.backbones.taps import Tap
from featx.cache.format import tap_names
from featx.errors import ImageError, ModelError, nearest
from featx.explaining.explanation import (
    Explanation,
    Method,
    TrainingPicture,
    map_before_pooling,
    occlusion_map,
)
from featx.heads.linear import LinearForm, calibration_of, decisions, linear_form
from featx.images import Pixels, decode, draw_pixels, file_of, policy_of
from featx.model import Model
from featx.model.likeness import likeness_of
from featx.model.network import require_same_features
from featx.model.prediction import label_rows
from featx.preprocess import Preprocess
from featx.targets import require_png
from featx.typing import JsonObject

CLOSE = 1e-5
"""How far mean plus bias may lie from the head's decision, relative to 1 or to the decision."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Sight:
    """One picture as the network sees it; the map and its vector only where pooling is a mean."""

    pixels: Pixels
    features: NDArray[np.float32]
    map: Floats | None = None
    reason: str = ""


@dataclass(frozen=True)
class Side:
    """A class and its rival, and the decision as a combination of the head's outputs.

    Parameters
    ----------
    label, against
        See `featx.explaining.explanation.Explanation`.
    mix
        float64, shape (n_outputs,); empty where the form of the head is unknown.
    """

    label: str | None
    against: str | None
    mix: Floats


class Explainer:
    """A loaded network with the head of a model, for any number of pictures.

    It runs on the CPU in float32.

    Parameters
    ----------
    model
        From `featx.load_model`.
    weights, backbone
        Where the file of the weights, or the code of the network, lies now.

    Raises
    ------
    ModelError, DriftError
        If the features would be others than those of the training.

    Examples
    --------
    >>> explainer = Explainer(model)  # doctest: +SKIP
    >>> maps = [explainer(path).map for path in paths]  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Model,
        *,
        weights: str | os.PathLike[str] | None = None,
        backbone: str | None = None,
    ) -> None:
        model.require_pictures("explain")
        options = {"weights": weights, "backbone": backbone, "device": "cpu", "precision": "fp32"}
        chosen = require_same_features(model, {**options, "compile": "off", "progress": False})
        self.model = model
        self.preprocess = Preprocess.from_dict(model.spec.preprocess)
        self.policy = policy_of(model.spec.decode)
        self.taps = [Tap.from_dict(tap) for tap in model.spec.taps]
        network = load_backbone(chosen["backbone"], weights=chosen["weights"])
        self.reader = network.reader(self.taps, self.preprocess)
        self.near = likeness_of(model)

    def __call__(
        self,
        picture: object,
        label: str | None = None,
        against: str | None = None,
        neighbours: int = 3,
    ) -> Explanation:
        """Explain one picture; see `featx.model.Model.explain`."""
        name, data = _bytes_of(picture)
        try:
            decoded = decode(data, self.policy, min(self.preprocess.resize_size))
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from None
        if len(self.preprocess.views) > 1:
            features = self.features([decoded])[0]
            sight = _Sight(decoded, features, reason="it takes several views")
        else:
            drawn = np.zeros(self.preprocess.out_shape(), np.uint8)
            draw_pixels(decoded, self.preprocess, drawn, self.policy.mode)
            sight = self._look(drawn)
        return self._explained(name, sight, label, against, neighbours)

    def of_drawn(self, drawn: Pixels, label: str | None, against: str | None) -> Explanation:
        """Explain what the network takes, uint8 (1, height, width, 3), without neighbours."""
        if len(drawn) > 1:
            raise ModelError(f"{self.model.name} takes several views; use `featx explain`")
        return self._explained("the picture", self._look(drawn), label, against, 0)

    def _explained(
        self, name: str, sight: _Sight, label: str | None, against: str | None, neighbours: int
    ) -> Explanation:
        row = label_rows(self.model, sight.features[None])[0]
        side, form = self._side(sight, row, label, against)
        found, bias, decision, method, reason = self._map(sight, form, side)
        likes, unlikes = self._neighbours(sight.features, side, neighbours)
        return Explanation(
            picture=name,
            label=side.label,
            against=side.against,
            predicted=row["label"],
            confidence=row.get(f"p_{side.label}"),
            decision=decision,
            bias=bias,
            map=found,
            method=method,
            reason=reason,
            calibration=calibration_of(self.model.estimator),
            layer=self.model.tap,
            pixels=sight.pixels,
            nearest_for=likes,
            nearest_against=unlikes,
            notes=self._notes(row),
            mix=side.mix,
        )

    def score(self, found: Explanation, pictures: Pixels) -> Floats:
        """Score pictures of the size of `found.pixels` for its label: float64, shape (n,)."""
        return score_of(self.model, self.embed(pictures), found)

    def embed(self, pictures: Pixels) -> NDArray[np.float32]:
        """Embed pictures of the size of `Explanation.pixels`: uint8 (n, height, width, 3)."""
        several = len(self.preprocess.views) > 1
        return self.features(pictures) if several else self._embed(pictures[:, None])

    def features(self, pictures: list[Pixels] | Pixels) -> NDArray[np.float32]:
        """Embed decoded pictures of any size: float32, shape (n, n_features)."""
        drawn = np.zeros((len(pictures), *self.preprocess.out_shape()), np.uint8)
        for pixels, out in zip(pictures, drawn, strict=True):
            draw_pixels(pixels, self.preprocess, out, self.policy.mode)
        return self._embed(drawn)

    def _embed(self, drawn: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed drawn pictures, uint8 (n, n_views, height, width, 3)."""
        with torch.no_grad():
            read = self.reader(torch.from_numpy(drawn.reshape(-1, *drawn.shape[2:])))
        views = [tap.numpy().reshape(len(drawn), drawn.shape[1], -1) for tap in read]
        merge, names = self.model.spec.view_merge, tap_names(self.model.spec)
        if drawn.shape[1] == 1 or merge == "concat":
            merged = [tap.reshape(len(drawn), -1) for tap in views]
        elif merge == "mean":
            merged = [tap.mean(axis=1) for tap in views]
        else:
            merged = [tap[:, k] for tap in views for k in range(drawn.shape[1])]
        X = np.hstack([merged[names.index(name)] for name in self.model.taps])
        return self._stored(X)

    def _stored(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Round as the cache does."""
        return X.astype(self.model.spec.dtype).astype(np.float32)

    def _look(self, drawn: Pixels) -> _Sight:
        pixels, features, found = drawn[0], self._embed(drawn[None])[0], None
        reason = self._no_mean()
        if not reason:
            tap = [one.name for one in self.taps].index(self.model.tap)
            found = map_before_pooling(self.reader, torch.from_numpy(drawn), tap)
            reason = f"features of {self.model.tap} are not the mean of a map"
        if found is None:
            return _Sight(pixels, features, reason=reason)
        # What was rounded, by summing and by the cache, lies on all places alike.
        exact = found[0] + (features - found[0].mean(axis=(1, 2)))[:, None, None]
        return _Sight(pixels, features, exact)

    def _no_mean(self) -> str:
        """Say why the features of the model are not the mean of one map; empty if they may be."""
        if len(self.model.taps) > 1:
            return "it takes several taps"
        tap = next((one for one in self.taps if one.name == self.model.tap), None)
        if tap is None:
            return "it takes one of several views"
        return "" if tap.pool == "avg" else f"its tap is pooled by {tap.pool}"

    def _side(
        self, sight: _Sight, row: JsonObject, label: str | None, against: str | None
    ) -> tuple[Side, LinearForm | None]:
        """Choose what is explained."""
        classes = self.model.classes
        form = linear_form(self.model.estimator, sight.features, classes)
        for name in (label, against):
            if name is not None and name not in classes:
                known = f"classes are {', '.join(classes)}" if classes else "it predicts a number"
                raise ModelError(
                    f"{self.model.name} has no class {name!r}{nearest(name, classes)}; {known}"
                )
        if not classes:
            return Side(None, None, np.ones(1)), form
        label = label or _likeliest(row, classes)
        if against == label:
            raise ModelError(f"label and against are both {label!r}; name two classes")
        if self.model.task == "multilabel" and against is not None:
            raise ModelError("a model of several labels explains each alone; leave out against")
        if form is None:
            other = next(c for c in classes if c != label) if len(classes) == 2 else against
            return Side(label, other, np.empty(0)), None
        return _side_of(form, sight.features, label, against), form

    def _map(
        self, sight: _Sight, form: LinearForm | None, side: Side
    ) -> tuple[Floats, float | None, float, Method, str]:
        """Give map, bias, decision, how it was made, and why not exactly."""
        if form is None or sight.map is None:
            reason = sight.reason or "the head is not linear"

            def score(pictures: Pixels) -> Floats:
                return score_of(self.model, self.embed(pictures), side)

            cover = tuple(round(255 * value) for value in self.preprocess.mean)
            found = occlusion_map(sight.pixels, score, cover)
            return found, None, float(score(sight.pixels[None])[0]), "occlusion", reason
        weights, bias = side.mix @ form.weights, float(side.mix @ form.bias)
        given = decisions(self.model.estimator, sight.features[None])
        assert given is not None
        decision = float(given[0] @ side.mix)
        found = np.tensordot(weights, sight.map, 1)
        apart = abs(found.mean() + bias - decision)
        if not apart <= CLOSE * max(1.0, abs(decision)):
            raise ModelError(
                f"{self.model.name}: the mean of the map plus the bias is "
                f"{found.mean() + bias:.8g}, and the decision of the head {decision:.8g}; please "
                "report this"
            )
        power = "" if form.exact else "it takes a signed power of the features"
        return found, bias, decision, "exact" if form.exact else "scaled", power

    def _neighbours(
        self, features: NDArray[np.float32], side: Side, k: int
    ) -> tuple[list[TrainingPicture], list[TrainingPicture]]:
        """Find the nearest pictures of the training of the label, and of what it is against."""
        near = self.near
        if near is None or k < 1:
            return [], []

        def found(allowed: NDArray[np.bool_]) -> list[TrainingPicture]:
            rows, similar = nearest_rows(near.unit, features[None], k, allowed=allowed)
            return [
                TrainingPicture(near.names[row], near.labels[row], round(float(value), 6))
                for row, value in zip(rows[0], similar[0], strict=True)
                if row >= 0
            ]

        if side.label is None:
            return found(np.ones(len(near), bool)), []
        has = np.array([side.label in (one, *str(one).split("|")) for one in near.labels])
        other = (
            ~has if side.against is None else np.array([one == side.against for one in near.labels])
        )
        return found(has), found(other)

    def _notes(self, row: JsonObject) -> list[str]:
        notes = []
        if self.model.spec.precision != "fp32":
            precision = self.model.spec.precision
            notes.append(f"computed in fp32; the features of the training are {precision}")
        if self.near is None:
            notes.append("the model is older than its training vectors; no neighbours are known")
        if row.get("abstained"):
            notes.append("the model abstains from this picture")
        return notes


def explain(
    model: Model,
    picture: object,
    *,
    out: str | os.PathLike[str] | None = None,
    label: str | None = None,
    against: str | None = None,
    neighbours: int = 3,
    weights: str | os.PathLike[str] | None = None,
    backbone: str | None = None,
    force: bool = False,
) -> Explanation:
    """Say where the answer to a picture comes from; see `featx.model.Model.explain`."""
    if out is not None:
        read = picture if isinstance(picture, str | os.PathLike) else None
        require_png(out, read, model.path, force=force)
    found = Explainer(model, weights=weights, backbone=backbone)(
        picture, label, against, neighbours
    )
    if out is not None:
        found.save(out, force=force)
    return found


def score_of(model: Model, X: NDArray[np.float32], side: Side | Explanation) -> Floats:
    """Score rows (n, n_features): the decision where there is one, else log-odds, else the number.

    Returns
    -------
    scores : shape (n,)
    """
    if len(side.mix):
        given = decisions(model.estimator, X)
        assert given is not None
        return np.asarray(given @ side.mix)
    found = model.score(X)
    if side.label is None:
        return np.asarray(found.predicted, dtype=np.float64)
    at = model.classes.index(side.label)
    if found.probabilities is None:
        return np.asarray(found.predicted == side.label, dtype=np.float64)
    p = np.clip(found.probabilities, 1e-6, 1 - 1e-6)
    if side.against is None:
        return np.asarray(np.log(p[:, at]) - np.log1p(-p[:, at]))
    return np.asarray(np.log(p[:, at]) - np.log(p[:, model.classes.index(side.against)]))


def _side_of(
    form: LinearForm, features: NDArray[np.float32], label: str, against: str | None
) -> Side:
    """Combine the outputs of a linear head: two classes, one of many, or one of many pairs."""
    values = form.weights @ features.astype(np.float64) + form.bias
    mix = np.zeros(len(values))
    if all(other is not None for _, other in form.sides):
        signs = [
            (k, 1.0 if first == label else -1.0, second if first == label else first)
            for k, (first, second) in enumerate(form.sides)
            if label in (first, second)
        ]
        named = [one for one in signs if against is None or one[2] == against]
        if not named:
            raise ModelError(f"the head was fitted on no row of {label!r} or {against!r}")
        k, sign, rival = min(named, key=lambda one: one[1] * values[one[0]])
        mix[k] = sign
        return Side(label, rival, mix)
    outputs = [first for first, _ in form.sides]
    for name, sign in ((label, 1.0), (against, -1.0)):
        if name is not None:
            if name not in outputs:
                raise ModelError(f"the head was fitted on no row of {name!r}")
            mix[outputs.index(name)] = sign
    return Side(label, against, mix)


def _likeliest(row: JsonObject, classes: list[str]) -> str:
    """Give the predicted class; of several labels, or of none, the likeliest."""
    if row["label"] in classes:
        return str(row["label"])
    scored = {name: row.get(f"p_{name}", 0.0) for name in classes}
    return max(classes, key=lambda name: scored[name])


def _bytes_of(picture: object) -> tuple[str, bytes]:
    if not isinstance(picture, str | os.PathLike):
        return "the picture", file_of(picture)
    path = Path(picture)
    if path.is_dir():
        raise ModelError(f"{path} is a folder; explain takes one picture")
    try:
        return os.fspath(path), path.read_bytes()
    except OSError as error:
        raise ModelError(f"picture {path} cannot be read: {error.strerror}") from None
