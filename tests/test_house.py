"""The shape of the house: who imports what, and which names are public."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import featx

ROOT = Path(featx.__file__).parent
HEAVY = ("torch", "torchvision", "timm", "h5py")
WITH_TORCH = (
    "images",
    "backbones",
    "runtime",
    "extraction.py",
    "engines",
    "tuning",
    "exporting",
    "explaining",
)

FLOORS = (
    ("errors",),
    ("manifest", "images", "cache", "backbones", "runtime"),
    ("run", "engines"),
    ("extraction",),
    ("model",),
    ("fitting",),
    ("tuning",),
    ("exporting", "explaining", "serve", "cli"),
)


def loaded_by(module: str) -> set[str]:
    code = f"import {module}, sys; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize(
    "module",
    [
        *("featx", "featx.errors", "featx.cli", "featx.images"),
        *("featx.heads", "featx.selection", "featx.evaluation", "featx.streaming"),
        "featx.reporting",
    ],
)
def test_light_modules_load_neither_torch_nor_h5py(module: str) -> None:
    assert loaded_by(module) == set()


def test_the_cache_loads_no_torch() -> None:
    assert loaded_by("featx.cache") == {"h5py"}


def test_only_the_cache_imports_h5py() -> None:
    for path in ROOT.rglob("*.py"):
        if "h5py" in imports(path):
            assert path.parent.name == "cache", path


def test_few_places_import_torch() -> None:
    for path in ROOT.rglob("*.py"):
        if imports(path) & {"torch", "torchvision", "timm"}:
            assert path.relative_to(ROOT).parts[0] in WITH_TORCH, path


def floor_of(room: str) -> int | None:
    return next((k for k, rooms in enumerate(FLOORS) if room in rooms), None)


def test_no_room_imports_one_above_it() -> None:
    checked = 0
    for path in ROOT.rglob("*.py"):
        floor = floor_of(path.relative_to(ROOT).parts[0].removesuffix(".py"))
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("featx."):
                continue
            above = floor_of(str(node.module).split(".")[1])
            if floor is not None and above is not None:
                checked += 1
                assert above <= floor, f"{path} imports {node.module}"
    assert checked > 200


def test_public_names_exist_and_are_documented() -> None:
    for name in featx.__all__:
        assert getattr(featx, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'extrakt'"):
        featx.extrakt  # noqa: B018
