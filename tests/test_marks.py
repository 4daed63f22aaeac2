"""featx knows its own files, and replaces no other without being told to."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image, PngImagePlugin

from featx.errors import CacheError
from featx.model.archive import REQUIRED
from featx.model.rowfile import open_rows
from featx.targets import MODEL_MEMBERS, is_ours, require_writable

OLD_PAGE = '<!doctype html>\n<html lang="en">\n<title>x: svm on y: featx report</title>'
COLUMNS = {"id": str, "path": str, "label": str, "p_a": float, "p_x, y\nz": float, "error": str}
ROW = {**dict.fromkeys(COLUMNS), "id": "1", "label": "cat", "p_a": 0.25}


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize("rows", [0, 2])
def test_tables_of_predictions_are_known_again(tmp_path: Path, suffix: str, rows: int) -> None:
    path = tmp_path / f"own{suffix}"
    with open_rows(path, COLUMNS) as writer:
        writer.write([ROW] * rows)
    require_writable(path, "predictions")


def test_a_table_of_a_thousand_classes_is_known_again(tmp_path: Path) -> None:
    columns = {"id": str, "path": str, "label": str}
    columns |= {f"p_class number {k}": float for k in range(1000)} | {"error": str}
    for name in ("own.csv", "own.jsonl"):
        with open_rows(tmp_path / name, columns) as writer:
            writer.write([dict.fromkeys(columns)])
        require_writable(tmp_path / name, "predictions")


FOREIGN = {
    "truth.csv": "id,path,label\n1,a/1.png,cat\n",
    "more.csv": "id,label,p_cat,error\n1,cat,1,0\n",
    "spaces.csv": "id,path,label,checked by,error\n",
    "semicolons.csv": "id;path;label;error\n",
    "truth.jsonl": '{"id": "1", "label": "cat"}\n',
    "list.jsonl": '[{"id": 1}]\n',
    "half.jsonl": '{"id": "1", "path": "a", "label": "b", "error',
    "note.csv": "not a table",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_tables_of_other_people_are_not_replaced(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(FOREIGN[name])
    with pytest.raises(CacheError, match=r"featx did not write; .* pass --force"):
        require_writable(path, "predictions")
    require_writable(path, "predictions", force=True)


def test_parquet_without_the_mark_is_not_replaced(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": ["1"], "label": ["cat"]})
    frame.to_parquet(tmp_path / "t.parquet")
    assert not is_ours(tmp_path / "t.parquet", "predictions")
    old = pd.DataFrame({"id": ["1"], "path": [""], "label": ["a"], "p_a": [1.0], "error": [""]})
    old.to_parquet(tmp_path / "old.parquet")  # as versions without the mark wrote it
    assert is_ours(tmp_path / "old.parquet", "predictions")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "old.parquet").read_bytes()[:-9])
    assert not is_ours(tmp_path / "cut.parquet", "predictions")


def test_pages_pictures_and_graphs(tmp_path: Path) -> None:
    pages = {
        "own": '<!doctype html>\n<html lang="en">\n<meta name="generator" content="featx">',
        "old": OLD_PAGE,
        "thesis": "<!doctype html><title>my thesis</title>",
        "quarto": '<!doctype html><meta name="generator" content="quarto-1.4">',
    }
    for name, text in pages.items():
        (tmp_path / name).write_text(text)
        assert is_ours(tmp_path / name, "report") == (name in ("own", "old")), name
    for name in ("featx", "Matplotlib version 3"):
        said = PngImagePlugin.PngInfo()
        said.add_text("Software", name)
        Image.new("RGB", (4, 4)).save(tmp_path / "p.png", pnginfo=said)
        assert is_ours(tmp_path / "p.png", "plot") == (name == "featx")
    for producer, ours in ((b"\x05featx", True), (b"\x07pytorch", False)):
        (tmp_path / "g.onnx").write_bytes(b"\x08\x0a\x12" + producer)
        assert is_ours(tmp_path / "g.onnx", "ONNX file") == ours


def test_only_a_zip_with_the_members_of_a_model_is_a_model(tmp_path: Path) -> None:
    assert set(REQUIRED) > MODEL_MEMBERS - {"digests.json"}
    for members, ours in ((MODEL_MEMBERS, True), ({"meta.json", "a.docx"}, False)):
        with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
            for name in members:
                archive.writestr(name, json.dumps({}))
        assert is_ours(tmp_path / "m.zip", "model") == ours
    (tmp_path / "text").write_text("PK but not a zip")
    assert not is_ours(tmp_path / "text", "model")


def test_an_old_model_may_be_replaced() -> None:
    assert is_ours(Path(__file__).parent / "data" / "model-v1.featx", "model")


def test_what_is_empty_may_be_replaced(tmp_path: Path) -> None:
    for kind in ("model", "report", "plot", "ONNX file", "predictions", "table"):
        (tmp_path / "empty").touch()
        require_writable(tmp_path / "empty", kind)
