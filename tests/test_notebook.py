"""The notebook runs from top to bottom on a cache of a built-in set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from featx.extraction import extract

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "explore_features.ipynb"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_notebook_runs(
    tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "digits.h5"
    extract("digits", cache, **tiny)
    monkeypatch.setenv("FEATX_CACHE", str(cache))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 2
    text = "".join(o.get("text", "") for o in outputs)
    assert "images never seen" in text
    assert "1797" in "".join(o.get("data", {}).get("text/html", "") for o in outputs)
