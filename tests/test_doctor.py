from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from featx.doctor import _bare_name, diagnose
from featx.runtime import plan_runtime


def test_it_says_what_this_machine_has_as_json() -> None:
    found = json.loads(json.dumps(diagnose()))
    assert found["versions"]["torch"]
    assert found["cpu"]["cores"] >= 1
    assert found["cpu"]["memory"] > 0
    assert all({"path", "exists", "writable"} == set(f) for f in found["folders"].values())


def test_the_automatic_plan_is_what_it_announces() -> None:
    devices = {d["device"]: d["precision"] for d in diagnose()["devices"]}
    plan = plan_runtime()
    assert devices[plan.device] == plan.precision
    assert "cpu" in devices


def test_folders_follow_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATX_CACHE_HOME", str(tmp_path / "new" / "deep"))
    folder = diagnose()["folders"]["compiled packages"]
    assert folder == {"path": str(tmp_path / "new" / "deep"), "exists": False, "writable": True}
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
def test_a_folder_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    where = f"/proc/{os.getpid()}/featx"
    monkeypatch.setenv("FEATX_CACHE_HOME", where)
    found = diagnose()
    assert not found["folders"]["compiled packages"]["writable"]
    assert any(where in line for line in found["advice"])


def test_a_missing_compiler_is_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = diagnose()
    assert found["cpu"]["compiler"] is None
    assert any("compiler" in line for line in found["advice"])


def test_requirements_are_read_by_name() -> None:
    lines = ["skops[full]>=0.13", "ray", "onnx (>=1.2)", "elpv-dataset>=1.0"]
    assert [_bare_name(line) for line in lines] == ["skops", "ray", "onnx", "elpv-dataset"]
