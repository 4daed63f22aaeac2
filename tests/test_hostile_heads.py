"""Heads of strangers' models: every loader of skops, foreign types at every place of a schema."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skops.io._audit import NODE_TYPE_MAPPING

from featx.errors import ModelError
from featx.heads import get_head
from featx.model.modelfile import dump_head, load_head

pytestmark = pytest.mark.slow

LOADERS = sorted({str(name) for name, _ in NODE_TYPE_MAPPING})
FOREIGN = (
    *(("os", "system"), ("builtins", "eval"), ("subprocess", "Popen"), ("pathlib", "Path.touch")),
    *(("shutil", "rmtree"), ("torch", "load"), ("pickle", "loads"), ("numpy", "load")),
    *(("builtins", "getattr"), ("operator", "methodcaller"), ("functools", "partial")),
    *(("sklearn.preprocessing", "FunctionTransformer"), ("joblib", "load"), ("no.such", "Type")),
)


@pytest.fixture(scope="module")
def head() -> bytes:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 3)), np.arange(20) % 2
    return dump_head(get_head("logreg").build(seed=0, n_samples=20).fit(X, y))


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(schema: Any, others: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, raw in {**others, "schema.json": json.dumps(schema).encode()}.items():
            archive.writestr(name, raw)
    return made.getvalue()


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "__loader__" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from nodes(inner)


def refused(data: bytes) -> bool:
    try:
        load_head(data, "h.featx")
    except ModelError as error:
        said = str(error)
    else:
        return False
    assert "\n" not in said
    return True


@pytest.mark.parametrize("foreign", FOREIGN, ids=".".join)
def test_a_foreign_type_at_any_place_is_refused(head: bytes, foreign: tuple[str, str]) -> None:
    files = members(head)
    count = len(list(nodes(json.loads(files["schema.json"]))))
    assert count > 10
    kinds: set[str] = set()
    for k in range(count):
        schema = json.loads(files["schema.json"])
        node = list(nodes(schema))[k]
        node["__module__"], node["__class__"] = foreign
        node["__id__"] = -1 - k  # not one that was built before, whose class is not looked at
        if not refused(packed(schema, files)):
            kinds.add(node["__loader__"])
    assert kinds <= {"JsonNode"}, "plain values, whose type is not looked at"


@pytest.mark.parametrize("loader", LOADERS)
def test_every_loader_with_a_call_in_it_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: str
) -> None:
    monkeypatch.chdir(tmp_path)
    call = f"touch {tmp_path / 'canary'}"
    inner = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode"}
    for module, name in FOREIGN:
        for content in (call, [call], {"content": call}, {**inner, "content": json.dumps(call)}):
            schema = {
                **{"__class__": name, "__module__": module, "__loader__": loader, "__id__": 1},
                **{"content": content, "attrs": content, "args": content, "file": "x.npy"},
                **{"key_types": content, "type": "numpy", "shape": content, "func": content},
                **{"reduce": content, "constructor": content, "obj": content, "dtype": "object"},
                **{"protocol": 0, "_skops_version": "0.13"},
            }
            refused(packed(schema, {"x.npy": b"\x93NUMPY\x01\x00"}))
    assert not list(tmp_path.iterdir())
