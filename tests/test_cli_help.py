"""The shell's help pages, version, quiet and colours."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from conftest import Shell

import featx
from featx.backbones import POOLS
from featx.cli import app
from featx.cli.app import print_lines
from featx.cli.panels import EXAMPLES, PANELS
from featx.heads import HEADS
from featx.preprocess import VIEW_SETS, Interpolation
from featx.protocols import PROTOCOLS

GROUP: Any = typer.main.get_command(app)
COMMANDS = sorted(GROUP.commands)


def help_of(command: str, name: str) -> str:
    return next(str(p.help) for p in GROUP.commands[command].params if p.name == name)


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version(flag: str, shell: Shell) -> None:
    assert shell(flag).stdout == f"featx {featx.__version__}\n"


def test_completion_can_be_installed(shell: Shell) -> None:
    assert "--install-completion" in shell("-h").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_two_examples_that_parse(
    command: str, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    page = shell(command, "-h").stdout
    assert len(EXAMPLES[command]) == 2
    for line in EXAMPLES[command]:
        assert line in page
        tool, name, *arguments = shlex.split(line)
        assert (tool, name) == ("featx", command)
        with GROUP.commands[command].make_context(command, arguments):
            pass
    for parameter in GROUP.commands[command].params:
        assert parameter.help, f"{command} {parameter.name}"


def test_options_stand_in_panels(shell: Shell) -> None:
    page = shell("extract", "-h").stdout
    titles = re.findall(r"─ (\w+) ─", page)
    assert {"Arguments", "Options", *PANELS} == set(titles)
    text = page[page.index("─ Cluster ─") :]
    assert "--address" in text[: text.index("╰")]


@pytest.mark.parametrize(
    ("command", "name", "values"),
    [
        ("fit", "head", HEADS),
        ("compare", "heads", HEADS),
        ("fit", "protocol", PROTOCOLS),
        ("extract", "pool", POOLS),
        ("extract", "views", VIEW_SETS),
        ("extract", "interpolation", get_args(Interpolation)),
        ("extract", "resize", ("crop", "squash", "pad")),
        ("extract", "view_merge", ("mean", "concat", "apart")),
        ("extract", "precision", ("auto", "fp32", "bf16", "fp16")),
    ],
)
def test_closed_sets_are_listed(command: str, name: str, values: Any) -> None:
    words = set(re.split(r"[^\w-]+", help_of(command, name)))
    assert set(values) <= words


def test_quiet_leaves_nothing_but_the_result(
    photos: Path, tmp_path: Path, tiny_flags: list[str], shell: Shell
) -> None:
    found = shell("extract", photos, tmp_path / "c.h5", *tiny_flags, "--quiet", "--batch-size", "4")
    assert found.returncode == 0
    assert found.stderr == ""
    assert "12 embedded" in found.stdout


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_errors_are_red_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    file, terminal = io.StringIO(), Terminal()
    for stream in (file, terminal):
        print_lines("featx: no such [folder]\nplain", stream)
    assert file.getvalue() == "featx: no such [folder]\nplain\n"
    assert terminal.getvalue() == "\x1b[31mfeatx: no such [folder]\x1b[0m\nplain\n"
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    print_lines("featx: no such [folder]", plain)
    assert plain.getvalue() == "featx: no such [folder]\n"
