"""A model: a fitted head with what is needed to feed it new images. Save, load, predict."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.archive import FORMAT_VERSION, REPORT, dump, load, read_archive, write_archive
from featx.cache.fingerprint import ExtractSpec, spec_difference
from featx.cache.format import tap_names
from featx.cache.reader import Cache
from featx.deciding import check_thresholds
from featx.errors import FeatxError, ModelError
from featx.headfile import dump_head, load_head
from featx.measuring import Scores, has_several, score_rows
from featx.preprocess import Preprocess
from featx.provenance import library_versions

if TYPE_CHECKING:
    from featx.exporting import Exported
    from featx.manifest import Source
    from featx.prediction import Prediction

_NEEDED: dict[str, tuple[type, ...]] = {
    "head": (str,),
    "task": (str,),
    "classes": (list,),
    "tap": (str,),
    "options": (dict,),
    "n_train": (int,),
    "typical": (str, int, float, list),
}
_SEEN = np.dtype([("id", "<u8"), ("content", "<u8")])


@dataclass(frozen=True)
class Model:
    """A fitted head, the spec of its features, and what was measured; see `load_model`.

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

    estimator: Any = field(repr=False)
    spec: ExtractSpec = field(repr=False)
    meta: dict[str, Any] = field(repr=False)
    figures: dict[str, Any] = field(repr=False)
    seen: NDArray[Any] = field(repr=False)
    tested: dict[str, Any] = field(default_factory=dict, repr=False)
    members: dict[str, bytes] = field(default_factory=dict, repr=False)
    kept: dict[str, Any] = field(default_factory=dict, repr=False)
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
    def thresholds(self) -> dict[str, Any]:
        """What `featx.deciding.decide` applies in prediction; empty for none."""
        return dict(self.meta.get("thresholds", {}))

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

    def predict(self, source: Source, **options: Any) -> Prediction:
        """Label new images; see `featx.prediction.predict`."""
        from featx.prediction import predict

        return predict(self, source, **options)

    def export(self, path: str | os.PathLike[str], **options: Any) -> Exported:
        """Write one ONNX file that runs without featx; see `featx.exporting.export`."""
        from featx.exporting import export

        return export(self, path, **options)

    def saw(self, ids: list[str], contents: NDArray[np.bytes_]) -> NDArray[np.bool_]:
        """Whether the model was trained on an image of this name or of this content."""
        asked = _seen(ids, contents)
        return np.asarray(
            np.isin(asked["id"], self.seen["id"]) | np.isin(asked["content"], self.seen["content"])
        )

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
        changed = spec_difference(self.spec, spec)
        if changed:
            raise ModelError(
                f"{self.name} was trained on other features than {cache.path} holds: "
                f"{'; '.join(changed)}; extract the cache again as the model's was"
            )

    @property
    def name(self) -> str:
        """How messages name it."""
        return f"model {self.path}" if self.path else "the model"

    def __repr__(self) -> str:
        what = f"{len(self.classes)} classes" if self.classes else "a number"
        return f"<Model {self.meta['head']} on {self.spec.architecture} {self.tap}: {what}>"


def describe_model(
    cache: Cache, *, head: str, task: str, classes: list[str], tap: str, label: str | None
) -> dict[str, Any]:
    """Make the ``meta`` of a model fitted on `cache`."""
    known = cache.provenance
    options = known.get("options") or {"backbone": known.get("backbone")}
    return {
        "encoding-type": "featx-model",
        "encoding-version": FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": library_versions(),
        "head": head,
        "task": task,
        "classes": classes,
        "tap": tap,
        "label": label,
        "fingerprint": cache.fingerprint,
        "backbone": known.get("backbone"),
        "weights": known.get("weights", {}),
        "options": options,
        "cache": str(cache.path),
        "source": known.get("source"),
        "thresholds": {},
    }


def digest_seen(ids: list[str], contents: NDArray[np.bytes_]) -> tuple[NDArray[Any], str]:
    """Digest the training rows: one entry each, and the SHA-256 of their sorted names."""
    names = hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()
    return _seen(ids, contents), names


def _seen(ids: list[str], contents: NDArray[np.bytes_]) -> NDArray[Any]:
    found = np.empty(len(ids), _SEEN)
    found["id"] = [_short(name.encode()) for name in ids]
    found["content"] = [_short(bytes(content)) for content in contents]
    return found


def _short(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")


def save_model(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model as one file, durably.

    Raises
    ------
    ModelError
        If the head holds a type that a model may not hold.
    CacheError
        If the file cannot be written.
    """
    members = {
        "meta.json": dump(model.meta),
        "spec.json": model.spec.to_json().encode(),
        "figures.json": dump(model.figures),
        "tested.json": dump(model.tested),
        "seen.bin": model.seen.tobytes(),
        "head.skops": dump_head(model.estimator),
        **({REPORT: dump(model.kept)} if model.kept else {}),
        **model.members,
    }
    write_archive(Path(path), members)


def load_model(path: str | os.PathLike[str]) -> Model:
    """Load a model; nothing in the file is ever executed.

    Parameters
    ----------
    path
        A file that `featx.fit` wrote.

    Raises
    ------
    ModelError
        If it is no model, damaged, of a newer version, or holds a type that it may not hold.

    Examples
    --------
    >>> import featx
    >>> model = featx.load_model("cells.featx")  # doctest: +SKIP
    """
    file = Path(path)
    members = read_archive(file)
    meta = load(file, "meta.json", members.pop("meta.json"))
    _check_meta(file, meta)
    seen = members.pop("seen.bin")
    if len(seen) % _SEEN.itemsize:
        raise ModelError(f"{file} is damaged: seen.bin is cut off")
    estimator = load_head(members.pop("head.skops"), str(file))
    _check_head(file, estimator, meta)
    return Model(
        estimator=estimator,
        spec=_spec(file, meta, members.pop("spec.json")),
        meta=meta,
        figures=load(file, "figures.json", members.pop("figures.json")),
        seen=np.frombuffer(seen, _SEEN),
        tested=load(file, "tested.json", members.pop("tested.json", b"{}")),
        kept=load(file, REPORT, members.pop(REPORT, b"{}")),
        members=members,
        path=file,
    )


def _check_meta(file: Path, meta: dict[str, Any]) -> None:
    if meta.get("encoding-type") != "featx-model":
        raise ModelError(f"{file} is not a featx model: meta.json names no such type")
    version = meta.get("encoding-version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ModelError(
            f"{file} has model format {version}, and this featx reads up to {FORMAT_VERSION}; "
            "update featx"
        )
    for name, kinds in _NEEDED.items():
        if not isinstance(meta.get(name), kinds):
            raise ModelError(f"{file} is damaged: meta.json has no proper {name!r}")
    check_thresholds(str(file), meta.get("thresholds", {}), meta["classes"])
    named = {"classes": meta["classes"], "options": [meta["options"].get("backbone")]}
    for name, values in named.items():
        if not all(isinstance(value, str) for value in values):
            raise ModelError(f"{file} is damaged: meta.json has no proper {name!r}")


def _check_head(file: Path, estimator: Any, meta: dict[str, Any]) -> None:
    known, classes = list(getattr(estimator, "classes_", [])), meta["classes"]
    several = meta["task"] == "multilabel"
    fits = len(known) == len(classes) if several else {*map(str, known)} <= {*classes}
    width = getattr(estimator, "n_features_in_", None)
    sound = isinstance(width, int) and hasattr(estimator, "predict") and fits
    if not sound or several != has_several(estimator):
        raise ModelError(f"{file} is damaged: its head does not fit what meta.json says of it")


def _spec(file: Path, meta: dict[str, Any], data: bytes) -> ExtractSpec:
    try:
        spec = ExtractSpec.from_json(data.decode())
        fingerprint = spec.fingerprint
        spec_difference(spec, spec)  # walks through all of it
        Preprocess.from_dict(spec.preprocess), spec.decode["mode"]
    except (FeatxError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{file} is damaged: spec.json is no spec ({error})") from None
    if fingerprint != meta.get("fingerprint"):
        raise ModelError(f"{file} is damaged: spec and fingerprint disagree")
    return spec
