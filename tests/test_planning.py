"""The plan before a long run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featx.extraction.extraction import extract
from featx.extraction.planning import make_plan, resident_bytes


def test_plan_extends_what_was_measured() -> None:
    busy = {"read": 1.0, "decode": 6.0, "forward": 3.0, "write": 0.0}
    plan = make_plan(busy, done=50, elapsed=2.0, waiting=1000, rows=1200, row_bytes=5120)
    assert plan.images_per_second == 25
    assert plan.seconds == 40
    assert plan.bound == "decode"
    assert plan.shares["decode"] == 0.6
    assert plan.file_bytes >= 1200 * 5120
    assert plan.memory_bytes > resident_bytes() // 2
    assert "bound by decode" in plan.describe()


def test_a_dry_run_rests_on_a_probe(photos: Path, tmp_path: Path, tiny: dict[str, Any]) -> None:
    planned = extract(photos, tmp_path / "c.h5", **tiny, dry_run=True)
    assert planned.plan is not None
    assert planned.plan.images == 12
    assert planned.plan.seconds > 0
    assert not (tmp_path / "c.h5").exists()
    done = extract(photos, tmp_path / "c.h5", **tiny)
    size = (tmp_path / "c.h5").stat().st_size
    assert 0.2 * size < planned.plan.file_bytes < size
    assert extract(photos, tmp_path / "c.h5", **tiny, dry_run=True).plan is None
    assert done.embedded == 12
