"""Warnings of libraries do not reach the user: stderr holds featx's own lines and nothing else."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import featx
from featx.heads import HEADS, get_head
from featx.selection import search

EVERY = """
import logging, sys, warnings
from featx.cli import app
from featx.progress import LogLines
logging.basicConfig(format="featx: %(message)s", handlers=[LogLines(sys.stderr)])
warnings.simplefilter("default")
for line in sys.stdin.read().splitlines():
    print("==", line, flush=True)
    app(line.split(), prog_name="featx", standalone_mode=False)
"""


def vectors(path: Path, counts: list[int], numbers: bool = False) -> Path:
    """Random vectors of a few classes, some of them rare."""
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(len(counts)), counts)
    X = rng.normal(size=(len(codes), 12)) + 2 * np.eye(len(counts), 12)[codes]
    labels = (codes + rng.normal(size=len(codes))) if numbers else [f"c{k}" for k in codes]
    featx.write_cache(path, X.astype(np.float32), labels=labels, encoder="random")
    return path


def said_by(lines: list[str]) -> tuple[str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", EVERY],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr.splitlines()


@pytest.mark.slow
def test_every_head_is_quiet_on_a_small_set_with_a_rare_class(tmp_path: Path) -> None:
    rare = vectors(tmp_path / "rare.h5", [24, 16, 7])
    numbers = vectors(tmp_path / "numbers.h5", [12, 12], numbers=True)
    heads = [*HEADS, "auto"]
    lines = [
        f"fit {numbers if get_head(head).task == 'regression' else rare} --head {head}"
        + ("" if get_head(head).task == "regression" else " --folds 5")
        + f" --report {tmp_path / 'page.html'} --force"
        for head in heads
    ]
    lines += [f"fit {rare} --head {head} --nested --folds 3" for head in ("stack", "lda", "knn")]
    lines.append(f"compare {rare} --heads svm,lda --folds 3")
    printed, said = said_by(lines)
    assert printed.count("== ") == len(lines)
    assert [line for line in said if not line.startswith("featx: ")] == []


def test_a_stack_whose_folds_lose_a_class_says_so_and_is_fitted() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(["a", "b", "c"], [20, 20, 8])
    X = rng.normal(size=(48, 6)) + 3 * np.eye(3, 6)[np.repeat(range(3), [20, 20, 8])]
    # All rows of class c are held out together: a group can do that.
    parts = [np.r_[0:10, 20:30], np.r_[10:20, 30:40], np.r_[40:48]]
    folds = [(np.setdiff1d(np.arange(48), held), held) for held in parts]
    found = search("stack", X, y, folds=folds)
    notes = {note["code"]: note["message"] for note in found.warnings}
    assert "1 folds of the stack train without a row of class 'c'" in notes["class-lost-in-fold"]
    assert found.estimator.predict_proba(X).shape == (48, 3)
    assert (found.estimator.predict(X) == y)[:40].mean() > 0.8


class Noisy(LogisticRegression):
    """A head of the user's that warns in its own words."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Noisy:
        warnings.warn("the noise\n is loud", UserWarning, stacklevel=2)
        return super().fit(X, y, sample_weight)


def test_what_a_library_warns_of_is_said_once_with_a_code(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cache = vectors(tmp_path / "c.h5", [20, 20])
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        found = featx.fit(cache, Noisy())
    notes = [one["message"] for one in found.warnings if one["code"] == "library-warning"]
    assert notes == ["a library warns: the noise is loud"]
    assert capfd.readouterr().err == ""
