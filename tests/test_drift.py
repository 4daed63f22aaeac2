"""Drift: false alarms and power of the test, what is left out, what is refused, the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coloured import save_coloured
from conftest import Shell
from PIL import Image, ImageEnhance

import featx
from featx.auditing.shift import find_shift, share_interval, shares_p_value
from featx.errors import FeatxError, ModelError, OptionError
from featx.model.archive import TRAINING, VECTORS, read_archive, write_archive


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Path:
    found = tmp_path_factory.mktemp("drift")
    save_coloured(found / "all", 120)
    for k, path in enumerate(sorted((found / "all").rglob("*.png"))):
        part = "photos" if k % 2 else "new"
        target = found / part / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        if part == "new":
            with Image.open(target) as image:
                dark = ImageEnhance.Brightness(image).enhance(0.4)
            place = found / "dark" / path.parent.name / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            dark.save(place)
    featx.extract(found / "photos", found / "c.h5", **tiny)
    featx.fit(found / "c.h5", "logreg", out=found / "m.featx")
    return found


def drift(folder: Path, source: Any, tiny: dict[str, Any], **options: Any) -> Any:
    return featx.drift(folder / "m.featx", source, backbone=tiny["backbone"], **options)


def rows(n: int, seed: int, shift: float = 0.0) -> Any:
    """Features with a heavy tail and unequal columns, at unit length."""
    rng = np.random.default_rng(seed)
    X = rng.standard_t(5, size=(n, 16)) * np.linspace(0.2, 2, 16) + shift
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def test_the_distance_is_that_of_a_plain_loop() -> None:
    A, B = rows(25, 0), rows(30, 1, 0.4)

    def mean(X: Any, Y: Any) -> float:
        return float(np.mean([[np.linalg.norm(x - y) for y in Y] for x in X]))

    found = find_shift(A, B, permutations=9)
    wanted = 2 * mean(A, B) - mean(A, A) - mean(B, B)
    assert found.distance == pytest.approx(wanted, rel=1e-6)
    assert found.moved[3] == pytest.approx(mean(B[3:4], A) - mean(B[3:4], B), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "rounds"), [(50, 300), (200, 150), (1000, 40)])
def test_false_alarms_are_at_most_five_per_cent_on_resampled_batches(n: int, rounds: int) -> None:
    """Batches drawn from the rows that the training was drawn from."""
    pool, alarms = rows(4000, 0), 0
    rng = np.random.default_rng(n)
    for k in range(rounds):
        order = rng.permutation(len(pool))
        found = find_shift(pool[order[:500]], pool[order[500 : 500 + n]], permutations=199, seed=k)
        alarms += found.p_value <= 0.05
    # More than this happens once in a thousand at a rate of 5 %.
    assert alarms <= 0.05 * rounds + 3.1 * np.sqrt(0.05 * 0.95 * rounds)


def test_a_shift_is_found_and_its_rows_named() -> None:
    A, B = rows(300, 0), rows(100, 1)
    B[:30] = rows(30, 2, 1.5)
    found = find_shift(A, B)
    assert found.p_value <= 0.01
    assert np.mean(np.argsort(-found.moved)[:20] < 30) > 0.8
    assert find_shift(A, rows(100, 3)).p_value > 0.05


def test_shares_have_intervals_and_p_values() -> None:
    low, high = share_interval(5, 100)
    assert (low, high) == (pytest.approx(0.0164, abs=1e-4), pytest.approx(0.1128, abs=1e-4))
    assert share_interval(100, 100)[1] == 1
    assert shares_p_value(np.array([[50, 50, 0], [48, 52, 0]])) > 0.3
    assert shares_p_value(np.array([[50, 50, 0], [20, 60, 20]])) < 0.01


def test_new_pictures_of_the_same_kind_are_no_drift_and_dark_ones_are(
    folder: Path, tiny: dict[str, Any]
) -> None:
    same = drift(folder, folder / "new", tiny)
    assert (same.drifted, same.rows, same.training_rows, same.seen) == (False, 60, 60, 0)
    assert same.predicted_p_value > 0.05
    dark = drift(folder, folder / "dark", tiny, unfamiliar_at=0.05)
    assert dark.drifted
    assert dark.p_value <= 0.05
    assert dark.unfamiliar["expected"] == 0.05
    assert len(dark.moved) == 10
    assert dark.moved[0].score >= dark.moved[-1].score
    assert "pictures have changed" in str(dark)
    assert "computed otherwise" not in str(dark)


def test_a_cache_and_its_source_say_the_same(
    folder: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    featx.extract(folder / "dark", tmp_path / "dark.h5", **tiny)
    by_cache = drift(folder, tmp_path / "dark.h5", tiny)
    assert by_cache.to_dict() == drift(folder, folder / "dark", tiny).to_dict()
    with featx.open_cache(tmp_path / "dark.h5") as cache:
        X = np.asarray(cache.X)
    by_rows = drift(folder, np.concatenate([X, X[:7]]), tiny)
    assert (by_rows.copies, by_rows.p_value) == (7, by_cache.p_value)


def test_pictures_of_the_training_are_left_out_and_three_are_too_few(
    folder: Path, tiny: dict[str, Any]
) -> None:
    few = sorted((folder / "new").rglob("*.png"))[:3]
    with pytest.raises(FeatxError, match="needs 20 pictures or more, and there are 3; collect"):
        drift(folder, few, tiny)
    with pytest.raises(FeatxError, match="there are 0 after 60 of the training and 0 copies"):
        drift(folder, folder / "c.h5", tiny)
    with pytest.raises(OptionError, match=r"level must lie between 0\.002 and 1; got 2"):
        drift(folder, folder / "new", tiny, level=2.0)


def test_an_old_model_asks_for_its_cache(folder: Path, tmp_path: Path) -> None:
    members = read_archive(folder / "m.featx")
    old = {name: data for name, data in members.items() if name not in (VECTORS, TRAINING)}
    meta = {**json.loads(old["meta.json"]), "cache": "gone.h5"}
    write_archive(tmp_path / "old.featx", {**old, "meta.json": json.dumps(meta).encode()})
    with pytest.raises(ModelError, match="written before models kept vectors"):
        featx.drift(tmp_path / "old.featx", np.zeros((30, 48), np.float32))


def test_the_command_says_the_same(folder: Path, tiny: dict[str, Any], shell: Shell) -> None:
    arguments = ("drift", folder / "m.featx", folder / "dark", "--backbone", tiny["backbone"])
    done = shell(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == drift(folder, folder / "dark", tiny).to_dict()


def test_pictures_that_cannot_be_read_are_listed_and_give_status_3(
    folder: Path, tiny: dict[str, Any], tmp_path: Path, shell: Shell
) -> None:
    shutil.copytree(folder / "dark", tmp_path / "dark")
    (tmp_path / "dark" / "empty.png").touch()
    model = folder / "m.featx"
    done = shell("drift", model, tmp_path / "dark", "--backbone", tiny["backbone"], "--json")
    assert done.returncode == 3
    assert "failed: empty.png: the file is empty" in done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == drift(folder, folder / "dark", tiny).to_dict() | {"failed": 1}
