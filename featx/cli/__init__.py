"""The shell: each command parses its arguments, calls one library function, prints the result."""

from __future__ import annotations

import io
import logging
import signal
import sys

from featx.cli import caches, heads, models, networks
from featx.cli.app import app
from featx.progress import LogLines

__all__ = ["app", "caches", "heads", "main", "models", "networks"]

_FIRST = ("train", "predict", "serve", "export", "extract", "fit", "evaluate", "audit", "search")
"""Commands at the head of the list of `featx --help`, in the order in which they are met."""

app.registered_commands.sort(
    key=lambda c: _FIRST.index(c.name) if c.name in _FIRST else len(_FIRST)
)


def main() -> None:
    """Run the command line."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal has no letters for must not end the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(format="featx: %(message)s", handlers=[LogLines(sys.stderr)])
    # A cluster's stop is like Ctrl-C: what is done is kept.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app(prog_name="featx")
