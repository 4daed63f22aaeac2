"""What a run says of its pictures: deep values that use a part of their range, unnamed bands."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from conftest import Shell, picture
from PIL import Image

from featx import load_model
from featx.cache import open_cache
from featx.errors import CacheMismatchError, FeatxError
from featx.extraction.extraction import extract
from featx.fitting.training import fit
from featx.images.pages import look


def save_deep(folder: Path, n: int, bits: int = 12, suffix: str = ".tif") -> Path:
    """Pictures whose values use some of 16 bits, grey, in two classes."""
    for k in range(n):
        path = folder / "ab"[k % 2] / f"{k}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = np.asarray(picture(k).convert("L")).astype(np.uint16) << (bits - 8)
        if suffix == ".tif":
            tifffile.imwrite(path, grey, photometric="minisblack")
        else:
            Image.fromarray(grey).save(path)
    return folder


def warnings_of(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_values_of_12_bits_in_16_are_noticed_and_bits_reads_them(
    suffix: str, tmp_path: Path, tiny: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    source = save_deep(tmp_path / "deep", 6, suffix=suffix)
    extract(source, tmp_path / "dark.h5", **tiny)
    said = warnings_of(caplog)
    assert "6 of 6 pictures looked at have values of" in said
    assert "where 65535 is white" in said
    assert "pass --bits 12 if they use 12 bits" in said
    caplog.clear()
    found = extract(source, tmp_path / "right.h5", **tiny, bits=12)
    assert warnings_of(caplog) == ""
    twins = tmp_path / "twins"
    for path in source.rglob(f"*{suffix}"):
        twin = twins / path.relative_to(source).with_suffix(".png")
        twin.parent.mkdir(parents=True, exist_ok=True)
        picture(int(path.stem)).convert("L").save(twin)
    extract(twins, tmp_path / "twins.h5", **tiny)
    with open_cache(tmp_path / "right.h5") as right, open_cache(tmp_path / "twins.h5") as twin:
        np.testing.assert_allclose(np.asarray(right.X), np.asarray(twin.X), atol=0.02)
        assert right.spec.decode["bits"] == 12
        assert right.fingerprint == found.fingerprint != twin.fingerprint
    with pytest.raises(CacheMismatchError, match=r"decode\.bits 12 -> nothing"):
        extract(source, tmp_path / "right.h5", **tiny)


def test_a_few_deep_files_among_many_are_found(
    tmp_path: Path, tiny: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    source = save_deep(tmp_path / "some", 20, suffix=".png")
    for path in list(source.rglob("*.png")):
        if int(path.stem) >= 4:
            picture(1).save(path)
    extract(source, tmp_path / "c.h5", **tiny, dry_run=True)
    assert "4 of 20 pictures looked at" in warnings_of(caplog)


def test_the_whole_range_and_a_narrow_one(
    tmp_path: Path, tiny: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    extract(save_deep(tmp_path / "whole", 4, bits=16), tmp_path / "whole.h5", **tiny)
    assert warnings_of(caplog) == ""
    (tmp_path / "warm").mkdir()
    values = 29_000 + np.arange(1024, dtype=np.uint16).reshape(32, 32)
    tifffile.imwrite(tmp_path / "warm" / "a.tif", values, photometric="minisblack")
    extract(tmp_path / "warm", tmp_path / "warm.h5", **tiny)
    said = warnings_of(caplog)
    assert "values of 29000 to 30023 where 65535 is white: at most 4 of 256 grey levels" in said
    assert "--bits" not in said


def test_bands_without_names_are_said_and_chosen(
    tmp_path: Path, tiny: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "s").mkdir()
    colour = np.asarray(picture(3))
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "s" / "three.tif", colour, **options)
    eight = np.dstack([colour[..., ::-1], colour, colour[..., :2]])
    tifffile.imwrite(tmp_path / "s" / "eight.tif", eight, **options)
    found = extract(tmp_path / "s", tmp_path / "c.h5", **tiny)
    assert "1 of 2 pictures looked at have three bands" in warnings_of(caplog)
    assert found.failures["eight.tif"].startswith("8 bands")
    caplog.clear()
    extract(tmp_path / "s", tmp_path / "d.h5", **tiny, bands="3,2,1")
    assert warnings_of(caplog) == ""
    with open_cache(tmp_path / "d.h5") as cache, open_cache(tmp_path / "c.h5") as plain:
        assert cache.spec.decode["bands"] == "3,2,1"
        # Bands 3, 2, 1 of eight are those of the colour picture in their order.
        np.testing.assert_allclose(np.asarray(cache.X)[0], np.asarray(plain.X)[0], atol=1e-6)


def test_a_model_keeps_bits_and_bands(tmp_path: Path, tiny: dict[str, Any]) -> None:
    source = save_deep(tmp_path / "deep", 24)
    for path in source.rglob("*.tif"):
        grey = tifffile.imread(path)
        bands = np.dstack([grey, grey // 2, grey // 4, grey, grey, grey])
        tifffile.imwrite(path, bands, photometric="minisblack", planarconfig="contig")
    extract(source, tmp_path / "c.h5", **tiny, bits=12, bands=(6, 2, 3))
    fit(tmp_path / "c.h5", head="logreg", out=tmp_path / "m.featx")
    model = load_model(tmp_path / "m.featx")
    found = model.predict(source, backbone=str(tiny["backbone"]), progress=False)
    assert found.predicted == 24


def test_wrong_options_are_named(tmp_path: Path, photos: Path, tiny: dict[str, Any]) -> None:
    for options, match in (
        ({"bits": 7}, "bits must be a whole number from 9 to 31"),
        ({"bands": "3,2"}, "bands must be one number"),
        ({"pages": "some"}, "pages must be one of first, all"),
    ):
        with pytest.raises(FeatxError, match=match):
            extract(photos, tmp_path / "c.h5", **tiny, **options)


def test_the_shell_takes_bits_and_bands(
    tmp_path: Path, tiny_flags: list[str], shell: Shell
) -> None:
    source = save_deep(tmp_path / "deep", 2)
    done = shell("extract", source, tmp_path / "c.h5", *tiny_flags, "--bits", 12, "--bands", "1",
                 "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["embedded"] == 2
    with open_cache(tmp_path / "c.h5") as cache:
        assert (cache.spec.decode["bits"], cache.spec.decode["bands"]) == (12, "1")


def test_a_look_is_empty_at_what_is_damaged() -> None:
    assert look(b"") == look(b"II*\0" + bytes(40)) == look(b"\x89PNG\r\n\x1a\n" + bytes(20))
