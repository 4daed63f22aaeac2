"""What commands load: those that need no network load no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from coloured import fit_coloured

from featx.cli.app import process_seconds

PROGRAM = """
import sys
from featx.cli import main
sys.argv = ["featx", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("LOADED", *[n for n in ("torch", "torchvision", "timm") if n in sys.modules])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Path:
    return fit_coloured(tmp_path_factory.mktemp("startup"), tiny, "ridge", fit_on="train")


@pytest.mark.parametrize(
    "command",
    [
        "info c.h5",
        pytest.param("verify c.h5", marks=pytest.mark.slow),
        "fit c.h5 --head svm --out new.featx",
        pytest.param("compare c.h5 --heads ridge,knn --folds 3", marks=pytest.mark.slow),
        pytest.param("evaluate m.featx c.h5", marks=pytest.mark.slow),
    ],
)
def test_commands_that_need_no_network_load_no_torch(folder: Path, command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command.split()],
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    assert done.stdout.splitlines()[-1].split() == ["LOADED"], done.stdout


@pytest.mark.slow
def test_heads_of_the_array_api_still_find_torch_after_skops(folder: Path) -> None:
    code = (
        "import featx, sys; m = featx.load_model('m.featx'); assert 'torch' not in sys.modules; "
        "import sklearn.externals.array_api_compat.torch as there; print(there.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=True
    )
    assert done.stdout.strip() == "sklearn.externals.array_api_compat.torch"


def test_seconds_of_the_process_are_those_of_its_clock() -> None:
    code = "import time; time.sleep(1); from featx.cli.app import process_seconds as s; print(s())"
    seconds = float(subprocess.run([sys.executable, "-c", code], capture_output=True).stdout)
    assert seconds >= 1
    assert 0 < process_seconds()
