"""Maps as taps: what is stored, its fingerprint, its size, and who refuses it."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import featx
from featx.backbones import load_backbone
from featx.cache.cache import Cache
from featx.cache.staging import Row, ShardWriter
from featx.errors import BackboneError, FitError, NoSpaceError, OptionError


def extracted(photos: Path, tiny: dict[str, Any], cache: Path, **options: Any) -> Cache:
    featx.extract(photos, cache, **{**tiny, "layers": ("grid",), "pool": "none", **options})
    return featx.open_cache(cache)


def test_a_map_is_stored_channels_first_with_its_shape(
    photos: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    with extracted(photos, tiny, tmp_path / "m.h5") as cache:
        assert cache.taps == ["grid-none"]
        assert cache.maps == {"grid-none": (3, 4, 4)}
        assert cache.X.shape == (12, 48)
        assert cache.X.dtype == np.float16
        assert cache.spec.taps[0]["map"] == [3, 4, 4]
        maps = np.asarray(cache.X, np.float32)
    featx.extract(photos, tmp_path / "v.h5", **tiny)  # flatten of the same map
    with featx.open_cache(tmp_path / "v.h5") as cache:
        assert cache.maps == {}
        assert "map" not in cache.spec.taps[0]
        np.testing.assert_allclose(maps, np.asarray(cache.X), atol=2e-3, rtol=2e-3)


def test_channels_come_first_where_the_network_has_them_last() -> None:
    backbone = load_backbone("timm:test_efficientnet.r160_in1k", weights="random")
    tap = backbone.select(["blocks.1"], "none")
    reader = backbone.reader(tap)
    channels, height, width = reader.measured_taps[0].map or (0, 0, 0)
    images = torch.randint(0, 256, (2, *backbone.preprocess.input_size, 3), dtype=torch.uint8)
    pooled = backbone.reader(backbone.select(["blocks.1"]))(images)[0]
    whole = reader(images)[0].reshape(2, channels, height, width)
    assert torch.allclose(whole.mean((2, 3)), pooled, atol=1e-6)


def test_float32_maps_and_pooled_vectors_are_other_features(
    photos: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    prints = set()
    for k, options in enumerate(({}, {"dtype": "float32"}, {"pool": "avg"}, {"input_size": 64})):
        with extracted(photos, tiny, tmp_path / f"{k}.h5", **options) as cache:
            prints.add(cache.fingerprint)
    assert len(prints) == 4


def test_views_stay_apart_so_that_a_row_is_an_image(
    photos: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    options = {"views": "hflip", "view_merge": "apart", "dtype": "float32"}
    with extracted(photos, tiny, tmp_path / "m.h5", **options) as cache:
        assert len(cache) == 12
        assert set(cache.maps.values()) == {(3, 4, 4)}
        plain, flipped = (np.asarray(cache.tap(t)).reshape(12, 3, 4, 4) for t in cache.taps)
        np.testing.assert_allclose(flipped, plain[..., ::-1], atol=1e-5)
        assert cache.verify().ok
    with pytest.raises(OptionError, match="pass --view-merge apart"):
        extracted(photos, tiny, tmp_path / "n.h5", views="hflip")


def test_a_second_run_reuses_maps(photos: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    extracted(photos, tiny, tmp_path / "m.h5").close()
    (photos / "cat" / "0000.png").unlink()
    found = featx.extract(
        photos, tmp_path / "m.h5", **{**tiny, "layers": ("grid",), "pool": "none"}
    )
    assert (found.embedded, found.reused, found.removed) == (0, 11, 1)


def test_a_layer_without_a_map_is_refused(
    photos: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(BackboneError, match=r"layer flatten .* gives a vector"):
        extracted(photos, tiny, tmp_path / "m.h5", layers=("flatten",))


def test_heads_refuse_maps(photos: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    extracted(photos, tiny, tmp_path / "m.h5").close()
    for use in (featx.fit, featx.compare, featx.audit):
        with pytest.raises(FitError, match="holds maps of 3x4x4, and heads take vectors"):
            use(tmp_path / "m.h5")


def test_the_size_is_said_before_and_must_fit(
    photos: Path,
    tiny: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with caplog.at_level(logging.INFO, "featx"):
        extracted(photos, tiny, tmp_path / "m.h5").close()
    assert "maps of 12 images, 96 B each: the cache will have 1.15 kB" in caplog.text
    full = SimpleNamespace(free=1200)
    monkeypatch.setattr("featx.files.shutil.disk_usage", lambda _: full)
    with pytest.raises(NoSpaceError):
        extracted(photos, tiny, tmp_path / "n.h5")
    assert not list(tmp_path.glob("n.h5*"))


def test_shards_of_large_maps_close_earlier(
    photos: Path, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with extracted(photos, tiny, tmp_path / "m.h5") as cache:
        spec = cache.spec
    monkeypatch.setattr("featx.cache.staging.SHARD_BYTES", 3 * 96)
    writer = ShardWriter(tmp_path / "parts", lambda: spec)
    row = np.zeros(48, np.float16)
    writer.add([Row(str(k), b"0" * 64, (0, 0), (row,)) for k in range(7)])
    assert len(list((tmp_path / "parts").glob("*/*.h5"))) == 3
