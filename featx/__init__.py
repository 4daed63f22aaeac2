"""Frozen CNN features, cached in HDF5, and classical heads trained on them in seconds.

>>> import featx
>>> result = featx.extract("photos/", "photos.h5")  # doctest: +SKIP
>>> cache = featx.open_cache("photos.h5")  # doctest: +SKIP
>>> fitted = featx.fit("photos.h5", head="svm", out="photos.featx")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from featx.errors import FeatxError

__version__ = "0.1.0"

if TYPE_CHECKING:
    from featx.backbones import list_backbones, load_backbone
    from featx.cache import open_cache, write_cache
    from featx.extraction.extraction import extract
    from featx.fitting.audit import audit
    from featx.fitting.comparing import compare
    from featx.fitting.drift import drift
    from featx.fitting.evaluating import evaluate
    from featx.fitting.from_source import train
    from featx.fitting.nearest import search
    from featx.fitting.publishing import report
    from featx.fitting.training import fit
    from featx.model.modelfile import load_model
    from featx.transformer import FeatureExtractor
    from featx.tuning.tune import tune

# Loaded when first used, so that `import featx` costs neither torch nor h5py.
_PUBLIC = {
    "FeatureExtractor": "featx.transformer",
    "audit": "featx.fitting.audit",
    "compare": "featx.fitting.comparing",
    "drift": "featx.fitting.drift",
    "evaluate": "featx.fitting.evaluating",
    "extract": "featx.extraction.extraction",
    "fit": "featx.fitting.training",
    "list_backbones": "featx.backbones",
    "load_backbone": "featx.backbones",
    "load_model": "featx.model.modelfile",
    "open_cache": "featx.cache",
    "report": "featx.fitting.publishing",
    "search": "featx.fitting.nearest",
    "train": "featx.fitting.from_source",
    "tune": "featx.tuning.tune",
    "write_cache": "featx.cache",
}

__all__ = [
    "FeatureExtractor",
    "FeatxError",
    "audit",
    "compare",
    "drift",
    "evaluate",
    "extract",
    "fit",
    "list_backbones",
    "load_backbone",
    "load_model",
    "open_cache",
    "report",
    "search",
    "train",
    "tune",
    "write_cache",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'featx' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
