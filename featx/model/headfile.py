"""A fitted head as bytes and back, by skops: only types on a fixed list, and never a pickle."""

from __future__ import annotations

import importlib
import importlib.abc
import io
import sys
import warnings
import zipfile
from typing import Any

from featx.errors import ModelError, words_of

TRUSTED = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.calibration._TemperatureScaling",
    "sklearn.model_selection._split.StratifiedKFold",
    "sklearn.utils._bunch.Bunch",
)
"""What the heads of featx hold beyond the types that skops itself trusts."""


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

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname == self.name:
            raise ModuleNotFoundError(f"{fullname} is not loaded here", name=fullname)


def dump_head(estimator: Any) -> bytes:
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
    """Refuse what is no zip (as a pickle under this name), and compressed bombs."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            packed = [e for e in archive.infolist() if e.compress_type != zipfile.ZIP_STORED]
            total = sum(e.file_size for e in archive.infolist())
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError):
        raise ModelError(f"{where}: the head is no skops file; it is not loaded") from None
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
