"""A model: a fitted head with what is needed to feed it new images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.arguments import typed
from featx.cache.cache import Cache
from featx.cache.format import tap_names
from featx.errors import ModelError
from featx.model.thresholds import Scores, score_rows
from featx.seen import short_rows
from featx.spec import EXTERNAL, ExtractSpec, as_trained, spec_difference
from featx.typing import Estimator, JsonObject

if TYPE_CHECKING:
    from featx.explaining import Explanation
    from featx.exporting import ExportResult
    from featx.model.prediction import Prediction


@dataclass(frozen=True)
class Model:
    """A fitted head, the spec of its features, and what was measured; see `featx.load_model`.

    Parameters
    ----------
    estimator
        Plain scikit-learn.
    spec
        What its features were computed by.
    meta
        Versions, classes, tap, task, and the options that extract alike.
    figures
        The result of the fit, as ``featx fit --json`` prints it.
    seen
        Truncated digests of the names and contents of the training images.
    tested
        Ids, labels and predictions of the test rows.
    members
        The files of the reference images and their vectors.
    kept
        What its report needs beside the figures; empty if it was made without.
    checked
        Devices on which the reference images still have their vectors.

    Examples
    --------
    >>> model = featx.load_model("cells.featx")  # doctest: +SKIP
    >>> table = model.predict("new/").to_frame()  # doctest: +SKIP
    """

    estimator: Estimator = field(repr=False)
    spec: ExtractSpec = field(repr=False)
    meta: dict[str, Any] = field(repr=False)
    figures: JsonObject = field(repr=False)
    seen: NDArray[Any] = field(repr=False)
    tested: JsonObject = field(default_factory=dict, repr=False)
    members: dict[str, bytes] = field(default_factory=dict, repr=False)
    kept: JsonObject = field(default_factory=dict, repr=False)
    path: Path | None = None
    checked: set[str] = field(default_factory=set, repr=False)

    @property
    def classes(self) -> list[str]:
        """Names of the classes in the order of the probabilities; empty for a regression."""
        return list(self.meta["classes"])

    @property
    def task(self) -> str:
        """``classification``, ``regression`` or ``multilabel``."""
        return str(self.meta["task"])

    @property
    def thresholds(self) -> JsonObject:
        """Thresholds that `featx.model.thresholds.decide` applies in prediction; empty for none."""
        return dict(self.meta.get("thresholds", {}))

    @property
    def sets(self) -> JsonObject:
        """The conformal sets of `featx.evaluation.conformal`; empty for none."""
        return dict(self.meta.get("sets", {}))

    @property
    def tap(self) -> str:
        """Name of the tap whose features the head takes; several side by side with commas."""
        return str(self.meta["tap"])

    @property
    def taps(self) -> list[str]:
        """Names of the taps whose features stand side by side.

        Raises
        ------
        ModelError
            If the spec has no such tap.
        """
        known = tap_names(self.spec)
        found = [self.tap] if self.tap in known else self.tap.split(",")
        if missing := [name for name in found if name not in known]:
            raise ModelError(f"{self.name} is damaged: its features have no tap {missing[0]!r}")
        return found

    @property
    def fingerprint(self) -> str:
        """Of the features that the head was trained on."""
        return self.spec.fingerprint

    def score(self, X: ArrayLike) -> Scores:
        """Predict from features.

        Parameters
        ----------
        X
            Shape (n_samples, n_features), of the model's tap.

        Returns
        -------
        scores : ``predicted`` and ``probabilities``

        Raises
        ------
        ModelError
            If the width is another.
        """
        features = np.asarray(X, dtype=np.float32)
        wanted = int(self.estimator.n_features_in_)
        if features.ndim != 2 or features.shape[1] != wanted:
            raise ModelError(
                f"{self.name} takes {wanted} features a row; got shape {features.shape}"
            )
        return score_rows(self.estimator, features, self.classes)

    @typed
    def predict(
        self,
        source: Any,
        *,
        out: str | os.PathLike[str] | None = None,
        cache: str | os.PathLike[str] | None = None,
        weights: str | os.PathLike[str] | None = None,
        backbone: str | None = None,
        pages: Literal["first", "all"] = "first",
        device: str = "auto",
        batch_size: int | Literal["auto"] = "auto",
        compile: Literal["auto", "on", "off"] = "auto",
        threads: int | None = None,
        allow_hosts: str | Sequence[str] = (),
        on_error: Literal["skip", "fail"] = "skip",
        max_failed: int | None = None,
        progress: bool = True,
        unfamiliar_at: float = 0.01,
        force: bool = False,
        excel_safe: bool = False,
        fetch: bool = False,
    ) -> Prediction:
        """Label every image of `source`.

        Parameters
        ----------
        source
            One picture or a list (paths, pictures of Pillow, pixels as arrays; folders among paths
            are their images), whatever else `featx.extract` takes, a cache of the same features,
            or features as a float array of shape (n, n_features).
        out
            A ``.csv``, ``.parquet`` or ``.jsonl`` file: ``id``, ``path``, ``label`` (several as
            ``a|b``), ``confidence``, ``unfamiliar`` (farther from the training images than all
            but 1 % of these are from each other), ``nearest`` training image and its
            ``nearest_label``, a probability for each class (``p_<class>``), with thresholds whether
            it is ``abstained`` from, and for an image that cannot be read the reason in ``error``.
        cache
            Where the features are kept and reused. Without it they are removed afterwards; what an
            interrupted run has done stays beside `out`, and the same command goes on from there.
        weights, backbone
            Where the file of the weights, or the code of the network, lies now.
        pages, device, batch_size, compile, threads, allow_hosts, on_error, max_failed, progress
            As in `featx.extract`.
        unfamiliar_at
            Share of pictures like those of the training that may be called ``unfamiliar``.
        force
            Replace a file at `out` that featx did not write.
        excel_safe
            Put an apostrophe before text of a ``.csv`` that a spreadsheet would take for a formula,
            or that begins with an apostrophe; without it ids and labels are letter for letter.
        fetch
            Fetch the weights that the model names, where they are not on this machine.

        Raises
        ------
        OptionError
            If an option has a wrong type.
        ModelError
            If the features would be others than those of the training.
        DriftError
            If they are, although everything that is recorded is the same.
        ExtractError
            If an image cannot be read and `on_error` is ``fail``, or too many fail.

        Examples
        --------
        >>> model = featx.load_model("cells.featx")  # doctest: +SKIP
        >>> found = model.predict("new/", out="new.csv")  # doctest: +SKIP
        """
        own = ("self", "source", "out", "cache", "force", "fetch", "excel_safe", "unfamiliar_at")
        options = {name: value for name, value in locals().items() if name not in (*own, "own")}
        from featx.model.prediction import predict

        with self._named_for(fetch, weights, backbone):
            return predict(
                self,
                source,
                out=out,
                cache=cache,
                force=force,
                safe=excel_safe,
                unfamiliar_at=unfamiliar_at,
                options=options,
            )

    @typed
    def export(
        self,
        path: str | os.PathLike[str],
        *,
        weights: str | os.PathLike[str] | None = None,
        backbone: str | None = None,
        quantise: Literal["int8"] | None = None,
        cache: str | os.PathLike[str] | None = None,
        map: bool = False,
        unfamiliar_at: float = 0.01,
        force: bool = False,
        fetch: bool = False,
    ) -> ExportResult:
        """Write one ONNX file that runs without featx: uint8 pictures in, probabilities out.

        Parameters
        ----------
        path
            The ``.onnx`` file; replaced once the new one is complete.
        weights, backbone
            Where the file of the weights, or the code of the network, lies now.
        quantise
            ``int8``: the network computes in 8 bits; refused where that harms the answers.
        cache
            Cache of the training, for `quantise`; None: the one that the model names.
        map
            Add the output ``map``: what a linear head says at each place of the picture.
        unfamiliar_at
            Share of pictures like those of the training that the output ``unfamiliar`` may name.
        force
            Replace a file at `path` that featx did not write.
        fetch
            Fetch the weights that the model names, where they are not on this machine.

        Returns
        -------
        exported : what was written, and the ten lines that run it

        Raises
        ------
        MissingExtraError
            If the extra ``onnx`` is not installed.
        ModelError
            If the model has no form in ONNX, ONNX Runtime gives other probabilities, or 8 bits
            harm it.
        BackboneError
            If the network cannot be translated.

        Examples
        --------
        >>> model.export("cells.onnx").difference < 1e-3  # doctest: +SKIP
        True
        """
        from featx.exporting import export

        with self._named_for(fetch, weights, backbone):
            return export(
                self,
                path,
                weights=weights,
                backbone=backbone,
                quantise=quantise,
                cache=cache,
                map=map,
                unfamiliar_at=unfamiliar_at,
                force=force,
            )

    @typed
    def explain(
        self,
        picture: Any,
        *,
        out: str | os.PathLike[str] | None = None,
        label: str | None = None,
        against: str | None = None,
        neighbours: int = 3,
        weights: str | os.PathLike[str] | None = None,
        backbone: str | None = None,
        force: bool = False,
        fetch: bool = False,
    ) -> Explanation:
        """Say where the answer to one picture comes from.

        A linear head on the mean of a map is explained exactly: the head is applied at each place
        of the map, and the mean of that plus the bias is its decision (Zhou et al. 2016, arXiv
        1512.04150). This is checked on every call. Any other model gets an approximation that is
        called one. The network runs on the CPU in float32.

        Parameters
        ----------
        picture
            A path, a picture of Pillow, or pixels (height, width, 3).
        out
            A ``.png`` file of the picture with the map over it.
        label
            The class that the map speaks for; the predicted one when None.
        against
            The class that it speaks against; every other class when None, or the closest rival
            where the head compares classes in pairs (``svm``).
        neighbours
            How many pictures of the training are named for the label, and against it.
        weights, backbone
            Where the file of the weights, or the code of the network, lies now.
        force
            Replace a file at `out` that featx did not write.
        fetch
            Fetch the weights that the model names, where they are not on this machine.

        Raises
        ------
        ModelError
            If the picture cannot be found, a class is unknown, or the features would be others.
        ImageError
            If the picture cannot be decoded.

        Examples
        --------
        >>> found = model.explain("one.jpg", out="why.png")  # doctest: +SKIP
        >>> found.method, found.label  # doctest: +SKIP
        ('exact', 'cat')
        """
        from featx.explaining import explain

        options: dict[str, Any] = {"label": label, "against": against, "neighbours": neighbours}
        with self._named_for(fetch, weights, backbone):
            return explain(
                self, picture, out=out, weights=weights, backbone=backbone, force=force, **options
            )

    def _named_for(self, fetch: bool, *moved: object) -> AbstractContextManager[None]:
        """Fetch no weights in the model's name, unless the call asks for it or names others."""
        from featx.backbones.fetch import named_by

        asked = fetch or any(place is not None for place in moved)
        return named_by("" if asked else self.name)

    def saw(
        self, ids: list[str], contents: NDArray[np.bytes_], *, by_name: bool = True
    ) -> NDArray[np.bool_]:
        """True if the model was trained on an image of this name or of this content.

        Parameters
        ----------
        by_name
            Whether a name tells anything; row numbers do not.
        """
        asked = short_rows(ids, contents)
        known = np.isin(asked["content"], self.seen["content"])
        return np.asarray(known | np.isin(asked["id"], self.seen["id"]) if by_name else known)

    def require_cache(self, cache: Cache, *, precision: bool = True) -> None:
        """Refuse a cache of other features.

        Parameters
        ----------
        precision
            Whether another precision is refused too; reference images may have allowed it.

        Raises
        ------
        ModelError
            Naming each field of the spec that differs.
        """
        spec = cache.spec if precision else replace(cache.spec, precision=self.spec.precision)
        changed = spec_difference(self.spec, as_trained(spec, self.spec))
        if changed:
            raise ModelError(
                f"{self.name} was trained on other features than {cache.path} holds: "
                f"{'; '.join(changed)}; extract the cache again as the model's was"
            )

    def require_pictures(self, what: str) -> None:
        """Refuse work on pictures where the features are vectors that featx did not compute.

        Raises
        ------
        ModelError
            Naming the encoder, and what the model takes instead.
        """
        if self.spec.is_external:
            encoder = self.spec.architecture.removeprefix(EXTERNAL)
            raise ModelError(
                f"{self.name} was trained on vectors of {encoder!r}, not on pictures: {what} needs "
                "pictures; compute vectors with that encoder, and pass them as a cache "
                "(`featx import`, featx.write_cache) or as a matrix to model.predict"
            )

    @property
    def name(self) -> str:
        """How messages name it."""
        return f"model {self.path}" if self.path else "the model"

    def __repr__(self) -> str:
        what = f"{len(self.classes)} classes" if self.classes else "a number"
        return f"<Model {self.meta['head']} on {self.spec.architecture} {self.tap}: {what}>"
