"""A model as one file: what it says of itself, saving, and loading without executing anything."""

from __future__ import annotations

import importlib
import importlib.abc
import io
import os
import sys
import warnings
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from featx.arguments import typed
from featx.cache.cache import Cache
from featx.errors import FeatxError, ModelError, words_of
from featx.model.archive import FORMAT_VERSION, REPORT, dump, load, read_archive, write_archive
from featx.model.model import Model
from featx.model.thresholds import check_sets, check_thresholds, has_several
from featx.preprocess import Preprocess
from featx.seen import SEEN_ROW
from featx.spec import ExtractSpec, library_versions, spec_difference
from featx.typing import Estimator, JsonObject

TRUSTED = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.calibration._TemperatureScaling",
    "sklearn.model_selection._split.StratifiedKFold",
    "sklearn.utils._bunch.Bunch",
)
"""Types that the heads of featx hold, beyond those that skops itself trusts."""


def _skops_io() -> Any:
    """Load skops without torch.

    It imports every module of scikit-learn on the way, and one of them imports torch, in seconds,
    where it is installed. That one is kept out meanwhile; scikit-learn finds it later if it needs
    it.
    """
    hidden = "sklearn.externals.array_api_compat.torch"
    if "torch" in sys.modules or "skops.io" in sys.modules:
        return importlib.import_module("skops.io")
    finder = _Hidden(hidden)
    sys.meta_path.insert(0, finder)
    try:
        return importlib.import_module("skops.io")
    finally:
        sys.meta_path.remove(finder)


class _Hidden(importlib.abc.MetaPathFinder):
    """Says that one module is not there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == self.name:
            raise ModuleNotFoundError(f"{fullname} is not loaded here", name=fullname)


def dump_head(estimator: Estimator) -> bytes:
    """Write a head as skops bytes.

    Raises
    ------
    ModelError
        If it holds a type that a model may not hold.
    """
    skops_io = _skops_io()
    try:
        data: bytes = skops_io.dumps(estimator)
    except Exception as error:  # whatever an estimator of the user's own raises
        reason = words_of(error, 400)
        raise ModelError(f"the head cannot be saved without pickle: {reason}") from error
    _require_trusted(data, "the head cannot be saved")
    return data


def load_head(data: bytes, where: str) -> Any:
    """Build a head from skops bytes.

    Raises
    ------
    ModelError
        If they are damaged, no skops file, or name a type that a model may not hold.
    """
    from sklearn.exceptions import InconsistentVersionWarning

    skops_io = _skops_io()
    _require_plain(data, where)
    _require_trusted(data, where)
    try:
        with warnings.catch_warnings():
            # Another version of scikit-learn is for the drift check and the digests to judge.
            warnings.simplefilter("ignore", InconsistentVersionWarning)
            return skops_io.loads(data, trusted=list(TRUSTED))
    except Exception as error:  # skops raises whatever a damaged schema leads to
        raise ModelError(f"{where}: the head cannot be built: {_reason(error)}") from None


def _require_plain(data: bytes, where: str) -> None:
    """Refuse what is not a zip (as a pickle under this name), and compressed bombs."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            packed = [e for e in archive.infolist() if e.compress_type != zipfile.ZIP_STORED]
            total = sum(e.file_size for e in archive.infolist())
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError):
        raise ModelError(f"{where}: the head is not a skops file; it is not loaded") from None
    if packed or total > len(data):
        raise ModelError(f"{where}: the head is compressed, which featx never writes; not loaded")


def _require_trusted(data: bytes, where: str) -> None:
    skops_io = _skops_io()
    try:
        found = skops_io.get_untrusted_types(data=data)
    except Exception as error:
        raise ModelError(f"{where}: the head cannot be read: {_reason(error)}") from None
    odd = sorted(set(found) - set(TRUSTED))
    if odd:
        raise ModelError(
            f"{where}: type {odd[0]} is not on the list of types that a model may hold"
        )


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


_NEEDED: dict[str, tuple[type, ...]] = {
    "head": (str,),
    "task": (str,),
    "classes": (list,),
    "tap": (str,),
    "options": (dict,),
    "n_train": (int,),
    "typical": (str, int, float, list),
}


def describe_model(
    cache: Cache, *, head: str, task: str, classes: list[str], tap: str, label: str | None
) -> JsonObject:
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


@typed
def load_model(path: str | os.PathLike[str]) -> Model:
    """Load a model; nothing in the file is ever executed.

    Parameters
    ----------
    path
        A file that `featx.fit` wrote.

    Raises
    ------
    ModelError
        If it is not a model, damaged, of a newer version, or holds a type that it may not hold.

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
    if len(seen) % SEEN_ROW.itemsize:
        raise ModelError(f"{file} is damaged: seen.bin is cut off")
    estimator = load_head(members.pop("head.skops"), str(file))
    _check_head(file, estimator, meta)
    return Model(
        estimator=estimator,
        spec=_spec(file, meta, members.pop("spec.json")),
        meta=meta,
        figures=load(file, "figures.json", members.pop("figures.json")),
        seen=np.frombuffer(seen, SEEN_ROW),
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
    check_sets(str(file), meta.get("sets", {}), meta["classes"])
    named = {"classes": meta["classes"], "options": [meta["options"].get("backbone")]}
    for name, values in named.items():
        if not all(isinstance(value, str) for value in values):
            raise ModelError(f"{file} is damaged: meta.json has no proper {name!r}")


def _check_head(file: Path, estimator: Estimator, meta: dict[str, Any]) -> None:
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
        if not spec.is_external:
            Preprocess.from_dict(spec.preprocess), spec.decode["mode"]
    except (FeatxError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{file} is damaged: spec.json is not a spec ({error})") from None
    if fingerprint != meta.get("fingerprint"):
        raise ModelError(f"{file} is damaged: spec and fingerprint disagree")
    return spec
