"""The shape of the house: who imports what, and which names are public."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import featx

ROOT = Path(featx.__file__).parent
HEAVY = ("torch", "torchvision", "timm", "h5py")
WITH_TORCH = {
    *("images", "backbones", "runtime", "extraction", "tuning", "exporting", "explaining"),
    "transformer",
}
GROUND = (
    *("arguments", "columns", "files", "items", "labels", "preprocess", "progress"),
    *("seen", "slices", "spec", "targets", "typing"),
)
ARRAYS = ("auditing", "evaluation", "heads", "selection", "streaming", "protocols", "reporting")
FLOORS = (
    ("errors",),
    GROUND,
    (*ARRAYS, "printing", "images", "sources", "backbones", "runtime", "cache"),
    ("extraction",),
    ("model",),
    ("explaining", "exporting"),
    ("fitting",),
    ("tuning",),
    ("serve", "doctor", "transformer"),
    ("studio",),
    ("cli",),
    ("__main__",),
)
# A model is used through its methods, which load what stands above it when they are called.
DOORS = {
    ("featx.model.model", "featx.model.prediction"),
    ("featx.model.model", "featx.explaining"),
    ("featx.model.model", "featx.exporting"),
    # So is a cache, where a notebook shows it.
    ("featx.cache.cache", "featx.fitting.looks"),
    # Everything in one command: where the user asks for it, the network is trained first.
    ("featx.fitting.from_source", "featx.tuning.tune"),
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in ROOT.rglob("*.py")}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def for_types_only(tree: ast.Module) -> set[ast.AST]:
    """Find what only type checkers read."""
    blocks = (n for n in ast.walk(tree) if isinstance(n, ast.If))
    typing = (n for n in blocks if isinstance(n.test, ast.Name) and n.test.id == "TYPE_CHECKING")
    return {inside for block in typing for inside in ast.walk(block)}


def imports_of(module: str) -> set[str]:
    """Find the modules that a module imports when it runs, imports inside functions included."""
    tree = ast.parse(MODULES[module].read_text())
    skipped, found = for_types_only(tree), set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {name if name in MODULES else node.module for name in whole}
    return found


GRAPH = {module: imports_of(module) for module in MODULES}


def loaded_by(module: str) -> set[str]:
    code = f"import {module}, sys; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_light_modules_load_neither_torch_nor_h5py() -> None:
    light = ["errors", *GROUND, *ARRAYS, "printing", "images", "cli"]
    assert loaded_by(", ".join(["featx", *(f"featx.{room}" for room in light)])) == set()


def test_the_cache_loads_no_torch() -> None:
    assert loaded_by("featx.cache") == {"h5py"}


def test_only_the_cache_imports_h5py() -> None:
    at = {module for module, found in GRAPH.items() if "h5py" in found}
    assert {room_of(module) for module in at} == {"cache"}


def test_few_rooms_import_torch() -> None:
    heavy = {"torch", "torchvision", "timm"}
    at = {m for m, found in GRAPH.items() if {name.split(".")[0] for name in found} & heavy}
    assert {room_of(module) for module in at} <= WITH_TORCH


def test_every_room_stands_on_one_floor() -> None:
    rooms = sorted({room_of(module) for module in MODULES} - {""})
    assert sorted(room for floor in FLOORS for room in floor) == rooms


def test_no_room_imports_one_above_it() -> None:
    floor = {room: k for k, rooms in enumerate(FLOORS) for room in rooms}
    wrong = [
        f"{module} imports {other}"
        for module, found in GRAPH.items()
        for other in found
        if room_of(module) and other.startswith("featx.") and (module, other) not in DOORS
        if floor[room_of(other)] > floor[room_of(module)]
    ]
    assert not wrong


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_rooms_have_no_circle() -> None:
    rooms: dict[str, set[str]] = defaultdict(set)
    for module, found in GRAPH.items():
        others = {o for o in found if o.startswith("featx.") and (module, o) not in DOORS}
        rooms[room_of(module)] |= {room_of(other) for other in others} - {room_of(module)}
    assert circle_in(rooms) == []


def test_modules_have_no_circle() -> None:
    # A package is its `__init__`, which names modules inside it: those import each other directly.
    graph = {
        module: {o for o in found & MODULES.keys() if (module, o) not in DOORS}
        for module, found in GRAPH.items()
    }
    assert circle_in(graph) == []


def test_a_class_name_has_one_owner() -> None:
    owners = defaultdict(list)
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                owners[node.name.lstrip("_")].append(module)
    assert {name: at for name, at in owners.items() if len(at) > 1} == {}


def test_public_names_exist_and_are_documented() -> None:
    for name in featx.__all__:
        assert getattr(featx, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'extrakt'"):
        featx.extrakt  # noqa: B018
