"""A killed `featx predict` goes on from what it has done, with a cache of its own and without."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from coloured import save_coloured
from conftest import Shell

from featx import fit, open_cache
from featx.extraction.extraction import extract

NETWORK = {"backbone": "timm:test_resnet", "weights": "random", "precision": "fp32"}
N = 2000  # a shard is closed after 512 rows


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False])
def test_killed_and_run_again(tmp_path: Path, kept: bool, shell: Shell) -> None:
    save_coloured(tmp_path / "old", 24)
    save_coloured(tmp_path / "new", N)
    extract(tmp_path / "old", tmp_path / "old.h5", progress=False, input_size=64, **NETWORK)
    model, out = tmp_path / "m.featx", tmp_path / "p.csv"
    fit(tmp_path / "old.h5", "logreg", model)
    command = ["predict", model, tmp_path / "new", "--out", out, "--threads", "1"]
    command += ["--cache", tmp_path / "new.h5"] if kept else []
    killed = subprocess.Popen(
        [sys.executable, "-m", "featx", *map(str, command)], stderr=subprocess.DEVNULL
    )
    while not _shards(tmp_path) and killed.poll() is None:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    done = _shards(tmp_path)
    assert done
    assert not out.exists()
    again = shell(*command)
    assert again.returncode == 0, again.stderr
    table = pd.read_csv(out, dtype={"id": str})
    assert len(table) == N
    assert table["label"].notna().all()
    assert [name.split("/")[0] for name in table["id"]] == list(table["label"])
    assert _shards(tmp_path) == []
    left = {path.name for path in tmp_path.iterdir() if ".p.csv" in path.name}
    assert left == set()
    if kept:
        with open_cache(tmp_path / "new.h5") as cache:
            assert 0 < int(cache.provenance["reused"]) < N


def _shards(folder: Path) -> list[Path]:
    """What a run has done so far, beside its cache."""
    return [path for path in folder.rglob("*.h5") if path.parent.parent.suffix == ".parts"]
