"""fit on features that stay in the file: the same model, files and messages as in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coloured import save_coloured
from conftest import Shell

import featx
import featx.streaming.memory as memory_of_heads
from featx.errors import FitError


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Path:
    """80 pictures of two colours."""
    folder = tmp_path_factory.mktemp("streamed")
    save_coloured(folder / "photos", 80)
    featx.extract(folder / "photos", folder / "c.h5", **tiny)
    return folder / "c.h5"


def test_streamed_and_in_memory_agree_to_the_last_figure(cache: Path, tmp_path: Path) -> None:
    found = {
        how: featx.fit(cache, "ridge", tmp_path / f"{how}.featx", memory=how)
        for how in ("ram", "stream")
    }
    ours, theirs = found["stream"], found["ram"]
    assert ours.chosen["params"] == theirs.chosen["params"]
    assert ours.chosen["passes"] == 2
    assert ours.test["accuracy"] == theirs.test["accuracy"]
    assert ours.test["log_loss"]["value"] == pytest.approx(
        theirs.test["log_loss"]["value"], rel=0.01
    )
    model = featx.load_model(tmp_path / "stream.featx")
    with featx.open_cache(cache) as opened:
        X = np.asarray(opened.X)
    assert ours.model is not None
    np.testing.assert_array_equal(model.score(X).predicted, ours.model.score(X).predicted)


def test_nested_and_repeated_measurements_stream_too(cache: Path) -> None:
    nested = featx.fit(cache, "lda", memory="stream", nested=True, folds=3)
    assert nested.n_test == 80
    several = featx.fit(cache, "ridge", memory="stream", repeats=2)
    assert several.measured_by.startswith("2 times")


def test_thresholds_need_no_row_again(cache: Path) -> None:
    result = featx.fit(cache, "logreg", memory="stream", precision_at=0.8)
    assert result.decisions["chosen_on"] == "out-of-fold predictions of 80 training rows"
    assert set(result.decisions["classes"]) == {"blue", "red"}


@pytest.mark.slow
def test_a_streamed_head_has_a_report(cache: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    featx.fit(cache, "ridge", tmp_path / "m.featx", report=page, memory="stream")
    assert "<svg" in page.read_text()


def test_the_shell_says_where_features_are(cache: Path, shell: Shell) -> None:
    done = shell("fit", cache, "--head", "ridge", "--memory", "stream", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["chosen"]["passes"] == 2
    said = [line for line in done.stderr.splitlines() if "read in blocks" in line]
    assert len(said) == 1
    assert said[0].startswith("featx: ridge on 80 x 48 features")
    refused = shell("fit", cache, "--head", "knn", "--memory", "stream")
    assert refused.returncode == 1
    assert refused.stderr.splitlines() == [
        "featx: head knn as set up here needs all rows in memory; these stream with their own "
        "grid: ridge, ridge-reg, lda, logreg, svm-large"
    ]


def test_one_name_is_one_definition_both_ways(cache: Path) -> None:
    streamed = featx.fit(cache, "svm", memory="stream")
    assert streamed.head == streamed.chosen["head"] == "svm-large"
    assert streamed.chosen["memory"] == {"way": "stream", "why": "as asked"}
    [note] = [note["message"] for note in streamed.warnings if note["code"] == "large-head"]
    assert note.startswith("features are read in blocks: svm-large (squared hinge, each class")
    memory = featx.fit(cache, "svm-large", memory="ram")
    assert memory.chosen["memory"] == {"way": "ram", "why": "as asked"}
    assert memory.chosen["params"] == streamed.chosen["params"]
    assert memory.chosen["scale"] == streamed.chosen["scale"]
    assert memory.accuracy.value == pytest.approx(streamed.accuracy.value, abs=0.02)
    plain = featx.fit(cache, "svm")
    assert (plain.head, plain.chosen["memory"]["way"]) == ("svm", "ram")
    auto = featx.fit(cache, memory="stream", nested=False)
    assert [option["head"] for option in auto.head_options] == ["svm-large", "logreg", "ridge"]


def test_a_way_that_free_memory_chose_is_recorded_and_can_be_repeated(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_of_heads, "free_bytes", lambda: 500_000)
    monkeypatch.setattr(memory_of_heads, "COPIES", 200)
    found = featx.fit(cache, "svm", tmp_path / "m.featx")
    assert found.head == "svm-large"
    assert found.chosen["memory"]["why"].startswith("free memory: about 0.0 GiB in memory, ")
    kept = featx.load_model(tmp_path / "m.featx")
    assert kept.meta["fit_options"]["memory"] == "stream"
    assert kept.figures["chosen"]["memory"] == found.chosen["memory"]
    monkeypatch.undo()
    again = featx.fit(cache, "svm", memory="stream")
    assert again.test["accuracy"] == found.test["accuracy"]


def test_labels_that_are_not_there_are_one_line(cache: Path) -> None:
    with pytest.raises(FitError, match=r"--label 'colour': .* has no such column"):
        featx.fit(cache, "ridge", memory="stream", label="colour")
