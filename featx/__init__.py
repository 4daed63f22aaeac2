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

if TYPE_CHECKING:
    from featx.backbones import load_backbone
    from featx.cache import open_cache
    from featx.extraction import extract

# Loaded when first used, so that `import featx` costs neither torch nor h5py.
_PUBLIC = {
    "extract": "featx.extraction",
    "load_backbone": "featx.backbones",
    "open_cache": "featx.cache",
}

__all__ = ["FeatxError", "extract", "load_backbone", "open_cache"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'featx' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
