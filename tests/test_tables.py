"""Tables from the file to the fit: what is written is what a cache holds and a head learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Shell, picture

import featx
from featx.errors import FitError

Options = dict[str, Any]


def pictures(folder: Path, n: int) -> None:
    for k in range(n):
        picture(k).save(folder / f"{k}.png")


def table(folder: Path, header: str, lines: list[str]) -> Path:
    path = folder / "t.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_a_cache_holds_what_is_written(tmp_path: Path, tiny: Options) -> None:
    pictures(tmp_path, 4)
    lines = ["0.png,007,01,1", "1.png,1E5,1,2.50", "2.png,NA,02,", "3.png,,2,4"]
    source = table(tmp_path, "path,label,group,weight", lines)
    featx.extract(source, tmp_path / "c.h5", **tiny)
    cache = featx.open_cache(tmp_path / "c.h5")
    assert cache.labels == ["007", "1E5", "NA", None]
    assert list(cache.columns["group"]) == ["01", "1", "02", "2"]
    assert list(cache.columns["weight"]) == ["1", "2.50", "", "4"]
    again = featx.extract(source, tmp_path / "c.h5", missing="NA", **tiny)
    assert again.reused == 4
    assert featx.open_cache(tmp_path / "c.h5").labels == ["007", "1E5", None, None]


def test_the_shell_takes_missing_and_says_what_it_assumed(
    tmp_path: Path, tiny_flags: list[str], shell: Shell
) -> None:
    pictures(tmp_path, 4)
    text = "path;label\n0.png;Möhre\n1.png;möhre \n2.png;NA\n3.png;-\n"
    (tmp_path / "t.csv").write_bytes(text.encode("cp1252"))
    picture(0).save(tmp_path / "1.png")
    done = shell(
        *("extract", tmp_path / "t.csv", tmp_path / "c.h5", "--missing", "NA", "--missing", "-"),
        *(*tiny_flags, "--json"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    codes = [one["code"] for one in found["warnings"]]
    assert codes == ["table-encoding", "table-separator", "similar-classes", "conflicting-labels"]
    for said in ("Windows-1252", "semicolons", "0.png = 1.png", r"'m\xf6hre '"):
        assert said in done.stderr
    assert featx.open_cache(tmp_path / "c.h5").labels == ["Möhre", "möhre ", None, None]


def test_a_regression_makes_numbers_of_text(tmp_path: Path, tiny: Options) -> None:
    pictures(tmp_path, 40)
    heights = [f"{k},{k % 10}" for k in range(40)]
    codes = [str(123456789012345678 + k) for k in range(40)]
    lines = [f'{k}.png,"{heights[k]}",{codes[k]},{k % 3}.5' for k in range(40)]
    source = table(tmp_path, "path,label,code,weight", lines)
    featx.extract(source, tmp_path / "c.h5", **tiny)
    cache = featx.open_cache(tmp_path / "c.h5")
    assert cache.labels == heights
    result = featx.fit(cache, "ridge-reg", weights_column="weight")
    assert "decimal-commas" in [one["code"] for one in result.warnings]
    assert result.model is not None
    wanted = {f"{k}.png": k + (k % 10) / 10 for k in range(40)}
    tested = result.model.tested
    assert tested["y"] == [wanted[name] for name in tested["ids"]]
    with pytest.raises(FitError, match=r"more digits than a float64 holds"):
        featx.fit(cache, "ridge-reg", label="code")
    with pytest.raises(FitError, match=r"labels are numbers .as 0,0.; use a regression head"):
        featx.fit(cache, "svm")


def test_a_fit_names_pictures_under_two_labels(tmp_path: Path, tiny: Options) -> None:
    for k in range(40):
        picture(k if k != 3 else 2).save(tmp_path / f"{k}.png")
    lines = [f"{k}.png,{'ab'[k % 2]}" for k in range(40)]
    said = featx.extract(table(tmp_path, "path,label", lines), tmp_path / "c.h5", **tiny)
    assert [one["code"] for one in said.warnings] == ["conflicting-labels"]
    found = {one["code"]: one["message"] for one in featx.fit(tmp_path / "c.h5", "ridge").warnings}
    assert "2.png = 3.png" in found["conflicting-labels"]
