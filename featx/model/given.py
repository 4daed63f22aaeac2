"""The input of `Model.predict`: paths, pictures, a cache or features, and never a mix of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.cache.cache import Cache
from featx.errors import ModelError
from featx.model import Model


@dataclass(frozen=True)
class GivenFeatures:
    """Features without a cache, with as much of its face as prediction needs."""

    X: NDArray[np.float32]
    failed: dict[str, str] = field(default_factory=dict)
    named: Sequence[str] | None = None
    places: Sequence[str] | None = None

    @classmethod
    def none(cls, model: Model, failed: dict[str, str]) -> GivenFeatures:
        """Make no rows at all, where every image failed."""
        return cls(np.empty((0, int(model.estimator.n_features_in_)), np.float32), failed)

    def __len__(self) -> int:
        return len(self.X)

    @property
    def ids(self) -> list[str]:
        """Those that were given, else their numbers, from 0."""
        return list(self.named) if self.named is not None else [str(k) for k in range(len(self))]

    @property
    def paths(self) -> list[str]:
        """Those that were given, else empty: features lie nowhere."""
        return list(self.places) if self.places is not None else [""] * len(self)

    def tap(self, name: str) -> GivenFeatures:
        """Themselves."""
        return self

    def batches(self, size: int) -> Iterator[NDArray[np.float32]]:
        """Hand out some rows at a time."""
        for start in range(0, len(self), size):
            yield self.X[start : start + size]


def as_source(source: Any, model: Model) -> Any:
    """Turn what was given into a source for `featx.extract`, a cache, or features.

    Parameters
    ----------
    source
        A path or a URL; a picture of Pillow; pixels as an array of integers, shape (height, width),
        (height, width, bands) or (n, height, width, bands); features, float, shape (n, n_features);
        a cache; or a list of paths or of pictures.

    Returns
    -------
    source : features are float32, shape (n, n_features); folders in a list are their images

    Raises
    ------
    ModelError
        For a mix, or something that is none of these.
    """
    from featx.images import is_picture

    if isinstance(source, Cache):
        return source
    if isinstance(source, str | os.PathLike):
        return _one_path(source)
    if isinstance(source, np.ndarray) and source.dtype.kind in "biufc":
        return _array(source, model)
    if is_picture(source):
        return [source]
    try:
        entries = list(source)
    except TypeError:
        raise ModelError(
            f"predict takes paths, pictures, a cache or features; got {type(source).__name__}"
        ) from None
    return _entries(entries, model)


def _one_path(source: str | os.PathLike[str]) -> Any:
    """Make a list of one picture; other sources are what `featx.extract` takes."""
    from PIL import Image

    from featx.sources.remote import is_url

    if isinstance(source, str) and is_url(source):
        return source
    path = Path(source)
    return [path] if path.suffix.lower() in Image.registered_extensions() else source


def _array(given: NDArray[Any], model: Model) -> Any:
    if given.ndim == 2 and given.dtype.kind == "f":
        wanted = int(model.estimator.n_features_in_)
        if given.shape[1] != wanted:
            raise ModelError(
                f"{model.name} takes {wanted} features a row; got shape {given.shape} (a grey "
                "picture of floating point goes in a list: [picture])"
            )
        X = np.asarray(given, dtype=np.float32)
        bad = ~np.isfinite(X).all(axis=1)
        if bad.any():
            raise ModelError(f"row {int(bad.argmax())} of the features holds NaN or infinity")
        return X
    if given.ndim == 4:
        return list(given)
    if given.ndim in (2, 3):
        return [given]
    raise ModelError(
        f"an array of shape {given.shape} is neither features (n, n_features), a picture (height, "
        "width, bands), nor pictures (n, height, width, bands)"
    )


def _entries(entries: list[Any], model: Model) -> Any:
    kinds = [_kind(entry) for entry in entries]
    if not entries:
        raise ModelError("predict got an empty list; give paths, pictures or features")
    odd = next((k for k, kind in enumerate(kinds) if kind != kinds[0] or not kind), None)
    if odd is not None:
        if not kinds[odd]:
            what = f"is of type {type(entries[odd]).__name__}"
            raise ModelError(f"entry {odd} of the list {what}; give paths or pictures")
        raise ModelError(
            f"the list mixes {kinds[0]} (entry 0) and {kinds[odd]} (entry {odd}); predict them in "
            "two calls"
        )
    if kinds[0] == "a cache":
        raise ModelError("predict takes one cache at a time; give each a call of its own")
    if kinds[0] == "features":
        return _array(np.array(entries, dtype=np.float32), model)
    return _without_folders(entries) if kinds[0] == "a path" else entries


def _kind(entry: Any) -> str:
    from featx.images import is_picture

    if isinstance(entry, str | os.PathLike):
        return "a path"
    if isinstance(entry, Cache):
        return "a cache"
    if np.ndim(entry) == 1 and np.asarray(entry).dtype.kind == "f":
        return "features"
    return "a picture" if is_picture(entry) else ""


def _without_folders(paths: list[Any]) -> list[Any]:
    """Put the images of a folder in its place; one that is named twice stays once."""
    from featx.sources.load import load_manifest

    found: list[Any] = []
    for path in paths:
        found += list(load_manifest(path).paths) if Path(path).is_dir() else [path]
    return list(dict.fromkeys(map(os.fspath, found)))
