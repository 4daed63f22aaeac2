"""`FeatureExtractor`: a backbone as a scikit-learn transformer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import BaseEstimator, TransformerMixin

from featx.arguments import require_types, several
from featx.errors import SourceError
from featx.items import Manifest
from featx.sources.paths import from_pictures, is_path, refuse_one_array

if TYPE_CHECKING:
    from featx.extraction.arrays import Network


class FeatureExtractor(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turn images into features inside a scikit-learn Pipeline.

    There is nothing to fit. The network is loaded when it is first used, once a process for equal
    parameters, so clones, folds and ``memory=`` share it. Vectors are remembered by the content of
    the images, up to 256 MiB a network, so that cross-validation embeds each image once. In float32
    by default, so that features do not depend on the machine; `featx.extract` is the faster way to
    many images.

    Parameters
    ----------
    backbone, weights, layers, pool
        As `featx.extract` takes them; several layers are set side by side.
    input_size
        Pixels a side; that of the weights when None.
    device, precision, batch_size, threads
        See `featx.runtime.plan_runtime`.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from featx import FeatureExtractor
    >>> model = make_pipeline(FeatureExtractor("resnet18"), LogisticRegression())
    >>> model.fit(paths, labels)  # doctest: +SKIP
    """

    def __init__(
        self,
        backbone: str = "efficientnet_lite0",
        *,
        weights: str | os.PathLike[str] | None = None,
        layers: str | Sequence[str] = (),
        pool: str | None = None,
        input_size: int | None = None,
        device: str = "auto",
        precision: str = "fp32",
        batch_size: int | Literal["auto"] = "auto",
        threads: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.layers = layers
        self.pool = pool
        self.input_size = input_size
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self.threads = threads

    def fit(self, X: object, y: object = None) -> FeatureExtractor:
        """Do nothing but check that `X` is a sequence of images; the network stays unloaded."""
        _as_manifest(X)
        return self

    def transform(self, X: object) -> NDArray[np.float32]:
        """Embed images.

        Parameters
        ----------
        X
            Paths, pictures of Pillow in any mode, or arrays of shape (height, width) or (height,
            width, 3 or 4), as a list or as one array of shape (n, height, width, 3). All go
            through the decode policy of files: integers are scaled by their type, floating point
            must lie in 0 to 1, alpha is composed on white.

        Returns
        -------
        features : float32, shape (n_samples, n_features)

        Raises
        ------
        ImageError
            If an image cannot be read; the message names it. A transformer must give every row.
        """
        return self._network().embed(_as_manifest(X))

    def get_feature_names_out(self, input_features: object = None) -> NDArray[Any]:
        """Names of the features: the tap and a number."""
        return self._network().names

    def _network(self) -> Network:
        require_types("FeatureExtractor", _types(), self.get_params(deep=False))
        return _load(
            self.backbone,
            None if self.weights is None else os.fspath(self.weights),
            tuple(several(self.layers)),
            self.pool,
            self.input_size,
            (self.device, self.precision, self.batch_size, self.threads),
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return True


@cache
def _types() -> dict[str, Any]:
    return get_type_hints(FeatureExtractor.__init__)


@lru_cache(maxsize=2)
def _load(
    backbone: str,
    weights: str | None,
    layers: tuple[str, ...],
    pool: str | None,
    input_size: int | None,
    runtime: tuple[str, str, int | str, int | None],
) -> Network:
    from featx.extraction.arrays import Network

    return Network(backbone, weights, layers, pool, input_size, runtime)


def _as_manifest(X: Any) -> Manifest:
    """Paths, pictures or arrays as items, each known by its number."""
    if isinstance(X, (str, bytes, os.PathLike, Image.Image)):
        raise SourceError(f"expected a sequence of images, got the single {_shown(X)}")
    refuse_one_array(X)
    images = list(np.ravel(X)) if _is_table_of_paths(X) else list(X)
    if not images:
        raise SourceError("expected at least one image, got none")
    return from_pictures(images, [str(k) for k in range(len(images))])


def _shown(X: object) -> str:
    return "picture" if isinstance(X, Image.Image) else f"path {X!r}"


def _is_table_of_paths(X: object) -> bool:
    """A column of paths with one or two dimensions, as from a data frame."""
    array = np.asarray(X, dtype=object) if hasattr(X, "columns") or hasattr(X, "dtype") else None
    return array is not None and array.ndim <= 2 and array.size > 0 and is_path(array.flat[0])
