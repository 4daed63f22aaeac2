"""Kills at random writes, flushes and renames: nothing may be lost, doubled or changed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_kills_full_disks_and_pairs_of_writers_lose_nothing() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.torture",
            "--kills",
            "20",
            "--full",
            "10",
            "--names",
            "2",
            "--seed",
            "7",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tally = json.loads(done.stdout)
    assert tally["kills"] >= 20
    assert tally["full"] == 10
    assert tally["pairs"] == 2
    assert tally["rows"] > 1000
    assert tally["moments"] > 100
