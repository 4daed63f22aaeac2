"""The options of every command as Markdown, from their own help: ``make docs`` runs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from featx.cli import app
from featx.cli.panels import EXAMPLES


def page() -> str:
    """Return a section for each command."""
    group: Any = typer.main.get_command(app)
    return "\n\n".join(_section(name, command) for name, command in group.commands.items())


def _section(name: str, command: Any) -> str:
    rows = [_row(parameter) for parameter in command.params if not parameter.hidden]
    words = [command.help or "", "```sh", *EXAMPLES[name], "```", ""]
    table = ["| argument or option | default | meaning |", "|---|---|---|", *rows]
    return "\n".join([f"## featx {name}", "", *words, *table])


def _row(parameter: Any) -> str:
    names = [*parameter.opts, *parameter.secondary_opts]
    if parameter.param_type_name == "argument":
        names = [parameter.metavar or parameter.name.upper()]
    plain = isinstance(parameter.default, str | int | float) and parameter.default is not False
    default = f"`{parameter.default}`" if plain and parameter.default != "" else ""
    named = ", ".join(f"`{name}`" for name in names)
    cells = (named, default, (parameter.help or "").replace("\n", " "))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page())
