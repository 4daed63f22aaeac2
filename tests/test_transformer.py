"""FeatureExtractor keeps scikit-learn's contract."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import picture
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from featx import FeatureExtractor, transformer
from featx.cache import open_cache
from featx.errors import ImageError, SourceError
from featx.extraction.arrays import VectorStore
from featx.extraction.extraction import extract


@pytest.fixture
def extractor(tiny: dict[str, Any]) -> FeatureExtractor:
    return FeatureExtractor(
        str(tiny["backbone"]), weights="random", layers="flatten", input_size=32
    )


def test_features_are_those_of_extract(
    photos: Path, tmp_path: Path, tiny: dict[str, Any], extractor: FeatureExtractor
) -> None:
    extract(photos, tmp_path / "c.h5", **tiny)
    with open_cache(tmp_path / "c.h5") as cache:
        wanted = np.asarray(cache.X)
        paths = [photos / name for name in cache.ids]
    names = list(map(str, paths))
    as_table = pd.DataFrame({"path": names})
    for X in (paths, names, np.array(names, dtype=object), pd.Series(names), as_table):
        np.testing.assert_allclose(extractor.transform(X), wanted, atol=1e-6)


def test_arrays_are_taken_as_they_are(extractor: FeatureExtractor) -> None:
    images = [np.asarray(picture(k, (50 + k, 40))) for k in range(3)]
    found = extractor.transform(images)
    assert found.shape == (3, 48)
    assert found.dtype == np.float32
    np.testing.assert_allclose(extractor.transform(images[1:2])[0], found[1], atol=1e-6)
    stack = np.stack([np.asarray(picture(k)) for k in range(3)])
    assert extractor.transform(stack).shape == (3, 48)
    grey = extractor.transform([stack[0, :, :, 0]])
    assert grey.shape == (1, 48)


def test_each_content_is_embedded_once(
    photos: Path, extractor: FeatureExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(photos.rglob("*.png"))
    transformer._load.cache_clear()
    network = extractor._network()
    seen: list[int] = []
    run = network.runner.__class__.__call__

    def counted(runner: Any, pixels: Any) -> Any:
        seen.append(len(pixels))
        return run(runner, pixels)

    monkeypatch.setattr(network.runner.__class__, "__call__", counted)
    first = extractor.transform(paths[:8])
    embedded, calls = len(network.vectors), len(seen)
    assert embedded == 8
    assert calls > 0
    np.testing.assert_array_equal(clone(extractor).transform(paths[7::-1]), first[::-1])
    assert len(seen) == calls
    both = extractor.transform(paths)
    np.testing.assert_array_equal(both[:8], first)
    assert len(network.vectors) == len(paths)


def test_what_is_remembered_is_bounded() -> None:
    vectors = VectorStore(most=3 * 16)
    for k in range(4):
        vectors.put(bytes([k]), np.full(4, k, np.float32))
        vectors.get(bytes([0]))  # used again and again, so kept
    assert vectors.get(bytes([1])) is None
    assert [vectors.get(bytes([k])) is not None for k in (0, 2, 3)] == [True] * 3
    assert vectors.n_bytes == 48


def test_parameters_clone_and_pickle(extractor: FeatureExtractor) -> None:
    copy = clone(extractor)
    assert copy.get_params() == extractor.get_params()
    assert copy.set_params(pool="max").pool == "max"
    assert pickle.loads(pickle.dumps(extractor)).get_params() == extractor.get_params()
    assert len(pickle.dumps(extractor)) < 2000


def test_clones_share_one_network(extractor: FeatureExtractor) -> None:
    transformer._load.cache_clear()
    image = [np.asarray(picture(1))]
    extractor.fit(image)
    assert transformer._load.cache_info().currsize == 0
    for other in (extractor, clone(extractor), pickle.loads(pickle.dumps(extractor))):
        other.transform(image)
    assert transformer._load.cache_info().misses == 1


def test_names_and_set_output(extractor: FeatureExtractor) -> None:
    assert list(extractor.get_feature_names_out()[:2]) == ["flatten_0", "flatten_1"]
    table = clone(extractor).set_output(transform="pandas").fit_transform([np.asarray(picture(1))])
    assert list(table.columns) == list(extractor.get_feature_names_out())


def test_in_a_pipeline_with_memory(tmp_path: Path, extractor: FeatureExtractor) -> None:
    images = np.stack([np.asarray(picture(k)) for k in range(30)])
    y = (images[..., 0].mean(axis=(1, 2)) > 127).astype(int)
    model = make_pipeline(extractor, LogisticRegression(max_iter=500), memory=str(tmp_path))
    scores = cross_val_score(model, images, y, cv=3)
    assert scores.mean() > 0.6
    assert any(tmp_path.rglob("*.pkl"))


def test_every_row_or_an_error(tmp_path: Path, extractor: FeatureExtractor) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"x")
    with pytest.raises(ImageError, match=r"bad\.png: not an image"):
        extractor.transform([bad])
    with pytest.raises(ImageError, match=r"image 1: pixel values from 300.0 to 300.0; featx reads"):
        extractor.transform([np.zeros((4, 4, 3)), np.full((4, 4, 3), 300.0)])
    with pytest.raises(SourceError, match="single path"):
        extractor.transform("photo.png")
    with pytest.raises(SourceError, match="got none"):
        extractor.fit([])
