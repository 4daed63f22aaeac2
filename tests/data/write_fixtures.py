"""Write the cache and the model of this folder: ``python tests/data/write_fixtures.py``.

Run it once for a new version of a format, under new names; what is there is never written again.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import featx
from featx.spec import FORMAT_VERSION

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from coloured import save_coloured  # noqa: E402

KINDS = (("cache", "h5"), ("model", "featx"), ("expected", "json"))
NETWORK: dict[str, Any] = {
    "backbone": "timm:test_resnet",
    "weights": "random",
    "layers": ("layer1",),
    "input_size": 32,
    "precision": "fp32",
    "progress": False,
    "compile": "off",
}


def main() -> None:
    """Write cache-vN.h5, model-vN.featx and what they must say."""
    names = [f"{what}-v{FORMAT_VERSION}.{end}" for what, end in KINDS]
    if present := [name for name in names if (HERE / name).exists()]:
        raise SystemExit(f"{present[0]} is there already, and stays as it is")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        # Relative names: what is written names no folder of the machine that wrote it.
        save_coloured(Path("pictures"), 24)
        cache, model, expected = map(Path, names)
        featx.extract("pictures", cache, **NETWORK)
        featx.fit(cache, "logreg", model, abstain=0.0)
        expected.write_text(json.dumps(said(cache, model), indent=1) + "\n")
        for name in names:
            shutil.copy(name, HERE / name)


def said(cache: Path, model: Path) -> dict[str, Any]:
    """What the model says of the rows of the cache."""
    with featx.open_cache(cache) as opened:
        rows = featx.load_model(model).predict(opened).rows
        return {"fingerprint": opened.fingerprint, "rows": [without_path(row) for row in rows]}


def without_path(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the place of its picture, which is gone."""
    return {name: value for name, value in row.items() if name != "path"}


if __name__ == "__main__":
    main()
