"""A contact sheet: small pictures with a line each, in sections, as one self-contained page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from featx.typing import JsonObject

_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="featx">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>{{ lead }}</p>
{% for section in sections %}
<h2>{{ section.title }}</h2>
{% if section.text %}<p>{{ section.text }}</p>{% endif %}
<div class="sheet">
{% for cell in section.cells %}
<figure>
<div class="row">{% for picture in cell.pictures %}
{% if picture %}<img alt="" src="data:image/jpeg;base64,{{ picture }}">{% else %}
<span class="none">no picture</span>{% endif %}{% endfor %}</div>
<figcaption>{% for line in cell.lines %}<span>{{ line }}</span>{% endfor %}</figcaption>
</figure>
{% endfor %}
</div>
{% endfor %}
</body>
</html>
"""

_STYLE = """
body { font: 16px/1.45 system-ui, sans-serif; margin: 1rem; color: #1b1b1b; background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 1rem; }
figure { margin: 0; } .row { display: flex; gap: 4px; min-height: 96px; align-items: flex-end; }
img { max-width: 100%; min-width: 0; flex: 0 1 auto; border-radius: 4px; }
figcaption span { display: block; font-size: .8rem; overflow-wrap: anywhere; }
figcaption span:first-child { font-weight: 600; }
.none { font-size: .8rem; opacity: .6; }
@media (prefers-color-scheme: dark) { body { color: #e8e8e8; background: #16181b; } }
"""


@dataclass(frozen=True)
class Cell:
    """One entry: small JPEGs side by side (None where there is none), and lines below them."""

    pictures: tuple[bytes | None, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """Entries under a heading."""

    title: str
    cells: Sequence[Cell]
    text: str = ""

    def to_dict(self) -> JsonObject:
        """JSON-ready values; pictures as base64, empty where there is none."""
        cells = [
            {"pictures": [_encoded(p) for p in cell.pictures], "lines": list(cell.lines)}
            for cell in self.cells
        ]
        return {"title": self.title, "text": self.text, "cells": cells}


@dataclass(frozen=True)
class Sheet:
    """A page of sections.

    Examples
    --------
    >>> sheet = Sheet("found", "two pictures", [Section("pairs", [Cell((None, None), ("a", "b"))])])
    >>> "no picture" in sheet.render()
    True
    """

    title: str
    lead: str
    sections: Sequence[Section] = field(default_factory=list)

    def render(self) -> str:
        """Make the page's text; everything from names or labels is escaped."""
        env = Environment(autoescape=True, undefined=StrictUndefined)
        sections = [section.to_dict() for section in self.sections]
        style = Markup(_STYLE)
        page = env.from_string(_TEMPLATE)
        return page.render(title=self.title, lead=self.lead, sections=sections, style=style)


def write_sheet(path: Path, sheet: Sheet) -> None:
    """Write the page; a file that is there is replaced only by a whole one."""
    from featx.files import write_bytes

    write_bytes(path, sheet.render().encode(errors="backslashreplace"))


def _encoded(picture: bytes | None) -> str:
    return "" if picture is None else base64.b64encode(picture).decode()
