"""Colours, where the terminal has them; `NO_COLOR` and `FORCE_COLOR` are honoured."""

from __future__ import annotations

import os
import sys
from typing import TextIO

_STYLES = (("warning (", "yellow"), ("failed: ", "red"), ("featx: ", "red"))


def print_lines(text: str, file: TextIO | None = None, style: str = "") -> None:
    """Print lines; warnings and errors in colour where `file` is a terminal.

    Parameters
    ----------
    style
        Of every line, as rich names it; by default each line's own.
    """
    stream = sys.stdout if file is None else file
    if not (stream.isatty() or os.environ.get("FORCE_COLOR")):
        print(text, file=stream, flush=True)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, highlight=False, soft_wrap=True)
    for line in text.split("\n"):
        console.print(Text(line, style or _style_of(line)))


def _style_of(line: str) -> str:
    return next((style for start, style in _STYLES if line.lstrip().startswith(start)), "")
