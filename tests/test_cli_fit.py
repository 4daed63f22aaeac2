"""The shell's fit, evaluate, predict and compare: the keys, the exit status, one line."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from coloured import fit_coloured
from conftest import Shell

import featx
from featx.cli.app import say_failures

CODE = ("--batch-size", "8", "--threads", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Path:
    found = fit_coloured(tmp_path_factory.mktemp("shell"), tiny, "svm", fit_on="train")
    (found / "table.csv").write_text("path\nphotos/none.jpg\n")
    (found / "no.png").write_text("a note")
    return found


def last_line(done: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def test_fit_says_what_the_library_says(shell: Shell, folder: Path) -> None:
    done = shell("fit", folder / "c.h5", "--head", "svm", "--out", folder / "s.featx", "--json")
    assert done.returncode == 0, done.stderr
    found = last_line(done)
    keys = {"head", "chosen", "test", "baseline", "warnings", "n_train", "n_test", "cv", "classes"}
    keys |= {"confusion", "per_class", "model", "cache", "fingerprint", "tap", "excluded"}
    assert keys | {"seconds"} <= set(found)
    assert {"accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "log_loss"} <= set(
        found["test"]
    )
    assert all(set(f) == {"value", "low", "high"} for f in found["test"].values())
    here = featx.fit(folder / "c.h5", "svm").to_dict()
    for name in ("chosen", "test", "baseline", "confusion", "n_train", "n_test", "warnings"):
        assert found[name] == here[name]
    assert featx.load_model(folder / "s.featx").figures["test"] == found["test"]


def test_fit_prints_a_table_with_the_baseline(shell: Shell, folder: Path) -> None:
    done = shell("fit", folder / "c.h5", "--head", "logreg")
    assert done.returncode == 0, done.stderr
    line = next(row for row in done.stdout.splitlines() if row.split()[0] == "accuracy")
    assert line.split()[-1] == "0.5000"
    assert "warning (few-test-rows)" in done.stdout


def test_results_show_the_table_and_give_metrics_as_attributes(folder: Path, shell: Shell) -> None:
    result = featx.fit(folder / "c.h5", "logreg")
    assert result.accuracy.value == result.test["accuracy"]["value"]
    assert result.accuracy.low == result.test["accuracy"]["low"]
    assert "accuracy" in dir(result)
    with pytest.raises(AttributeError, match="no metric 'acuracy'; did you mean accuracy"):
        result.acuracy  # noqa: B018
    printed = shell("fit", folder / "c.h5", "--head", "logreg").stdout
    assert repr(result).strip() == printed.strip()
    assert copy.deepcopy(result).accuracy == result.accuracy
    page = result._repr_html_()
    assert page.count("<tr>") == len(result.test) + 1
    assert "<td>accuracy</td>" in page
    found = featx.compare(folder / "c.h5", "ridge", folds=3)
    assert "Pareto front" in repr(found)
    assert "<td>ridge</td>" in found._repr_html_()
    both = shell(
        "compare", folder / "c.h5", "--heads", "ridge,knn", "--heads", "lda", "--folds", "3"
    )
    assert {line.split()[2] for line in both.stdout.splitlines() if "c.h5" in line} == {
        *("ridge", "knn", "lda")
    }


def test_evaluate_leaves_out_the_training_rows(shell: Shell, folder: Path) -> None:
    done = shell("evaluate", folder / "m.featx", folder / "c.h5", "--json")
    assert done.returncode == 0, done.stderr
    found = last_line(done)
    assert {"head", "chosen", "test", "baseline", "warnings", "n_train", "n_test"} <= set(found)
    assert found["excluded"] == {"seen in training": 30}


def test_predict_with_a_broken_image_ends_with_3(
    shell: Shell, folder: Path, tiny: dict[str, Any]
) -> None:
    shutil.copytree(folder / "photos" / "red", folder / "new")
    (folder / "new" / "broken.png").write_bytes(b"no picture")
    flags = ("--backbone", tiny["backbone"], *CODE, "--out", folder / "p.csv", "--json")
    done = shell("predict", folder / "m.featx", folder / "new", *flags)
    assert done.returncode == 3, done.stderr
    found = last_line(done)
    assert (found["predicted"], found["failed"]) == (20, 1)
    assert found["out"] == str(folder / "p.csv")
    assert sum(found["labels"].values()) == 20
    assert "failed: broken.png" in done.stderr
    assert len(pd.read_csv(folder / "p.csv")) == 21


def test_twenty_failures_are_named_and_where_the_others_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say_failures({f"{k}\x1b.png": "odd\x07" for k in range(25)}, "labels.csv")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == r"failed: 0\x1b.png: odd\x07"
    assert lines[20:] == ["failed: and 5 more; labels.csv lists them"]


def test_stopped_prediction_goes_on_where_it_was(
    shell: Shell, folder: Path, tiny: dict[str, Any]
) -> None:
    """What ends a run part of the way leaves its rows beside the target, until it is done."""
    source, target = folder / "stopped", folder / "stopped.csv"
    shutil.copytree(folder / "photos", source)  # few pictures would go through memory
    (source / "zzz.png").write_bytes(b"no picture")
    flags = ("--backbone", tiny["backbone"], *CODE, "--out", target)
    done = shell("predict", folder / "m.featx", source, *flags, "--on-error", "fail")
    assert done.returncode == 1
    assert not target.exists()
    assert [p for p in folder.iterdir() if p.name.startswith(".stopped.csv")]
    (source / "zzz.png").unlink()
    done = shell("predict", folder / "m.featx", source, *flags)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(target)) == 40
    assert not [p for p in folder.iterdir() if p.name.startswith(".stopped.csv")]


def test_compare_writes_the_table(shell: Shell, folder: Path) -> None:
    table = folder / "board.csv"
    flags = ("--heads", "svm,ridge", "--folds", "3", "--out", table, "--json")
    done = shell("compare", folder / "c.h5", *flags)
    assert done.returncode == 0, done.stderr
    found = last_line(done)
    assert [row["head"] for row in found["rows"]] == list(pd.read_csv(table)["head"])
    assert {"value", "low", "high"} == set(found["selected"]["score"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "c.h5", "--head", "svn"], "did you mean"),
        (["fit", "c.h5", "--tap", "flat"], "has no tap 'flat'"),
        (["fit", "c.h5", "--label", "nope"], "--label 'nope'"),
        (["fit", "c.h5", "--head", "svm", "--folds", "31"], "31 folds"),
        (["fit", "c.h5", "--seed", "-1"], "the seed is -1; expected a whole number"),
        (["compare", "c.h5", "--seed", "-1"], "the seed is -1"),
        (["evaluate", "m.featx", "c.h5", "--seed", str(2**32)], "the seed is 4294967296"),
        (["fit", "c.h5", "--head", "os:system"], "cannot be made without arguments: TypeError"),
        (["fit", "m.featx"], "m.featx"),
        (["fit", "none.h5"], "no such cache"),
        (["info", "x" * 300], "x: File name too long|no such cache"),  # as pathlib has it
        (["extract", "x" * 300, "n.h5"], "x: File name too long|no such folder"),
        (["fit", "c.h5", "--out", "no/m.featx"], "does not exist"),
        (["fit", "c.h5", "--out", "./c.h5"], "would replace a file of this same command"),
        (["fit", "c.h5", "--report", "c.h5"], "would replace a file of this same command"),
        (["fit", "c.h5", "--out", "n", "--report", "./n"], "would replace a file of this same"),
        (["compare", "c.h5", "--out", "c.h5"], "would replace a file of this same command"),
        (["compare", "c.h5", "--out", "n.png", "--plot", "n.png"], "would replace a file of this"),
        (["extract", "table.csv", "table.csv", "--force"], "would replace a file of this same"),
        (["predict", "m.featx", "table.csv", "--out", "table.csv"], "would replace a file of this"),
        (["report", "m.featx", "--out", "m.featx"], "would replace a file of this same command"),
        (["fit", "c.h5", "--out", "photos/red/000.png"], "featx did not write; name another"),
        (["fit", "c.h5", "--report", "table.csv"], "featx did not write"),
        (["compare", "c.h5", "--out", "table.csv"], "featx did not write"),
        (["compare", "c.h5", "--plot", "no.png"], "featx did not write"),
        (["predict", "m.featx", "photos", "--out", "table.csv"], "featx did not write"),
        (["report", "m.featx", "--out", "c.h5"], "featx did not write"),
        (["evaluate", "c.h5", "c.h5"], "is not a whole featx model: it is a cache"),
        (["fit", "m.featx"], "is not a featx cache: it is a model"),
        (["predict", "m.featx", "photos", "--out", "p.doc"], "names no format"),
        (["predict", "m.featx", "nowhere", "--out", "p.csv"], "may not run|no such folder"),
    ],
)
def test_known_errors_are_one_line_and_status_1(
    shell: Shell,
    folder: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    done = shell(*arguments)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("featx: ")
    assert re.search(message, lines[0])


def test_a_full_disk_behind_stdout_is_one_line(folder: Path) -> None:
    command = [sys.executable, "-m", "featx", "info", str(folder / "c.h5"), "--json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "featx: the result cannot be printed: No space left on device\n"


def test_a_terminal_without_the_letters_gets_them_escaped(folder: Path) -> None:
    copied = shutil.copy(folder / "c.h5", folder / "\xe9\x1b[31m.h5")
    done = subprocess.run(
        [sys.executable, "-m", "featx", "verify", copied],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\\xe9\\x1b[31m.h5: 40 rows, ok\n")


def test_a_model_of_a_cache_whose_name_is_no_utf8(folder: Path, shell: Shell) -> None:
    odd = os.fsdecode(os.fsencode(folder) + b"/caf\xe9")
    shutil.copy(folder / "c.h5", odd + ".h5")
    files = ("--out", odd + ".featx", "--report", odd + ".html")
    done = shell("fit", odd + ".h5", "--head", "ridge", *files)
    assert done.returncode == 0, done.stderr
    assert featx.load_model(odd + ".featx").figures["cache"] == odd + ".h5"
    assert Path(odd + ".html").stat().st_size
