"""What the shell prints for a person: plain tables, sizes and counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from featx.cache.durable import size_text


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns: text to the left, numbers to the right.

    Examples
    --------
    >>> print(table(["name", "n"], [["a", "10"], ["bcd", "9"]]))
    name   n
    a     10
    bcd    9
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    right = [all(_is_number(row[k]) for row in rows) for k in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    return not text or text[0].isdigit() or text == "-"


def backbones_text(found: Sequence[Any]) -> str:
    """Render what `featx.list_backbones` found."""
    rows = [
        [
            info.name,
            info.source,
            count_text(info.features),
            short_count(info.parameters),
            short_count(info.macs),
            "x".join(map(str, info.input_size)) if info.input_size else "-",
            "-" if info.top1 is None else f"{info.top1:.1f}",
            "yes" if info.local else "no",
            info.licence or "-",
        ]
        for info in found
    ]
    head = "name source features parameters macs input top1 here licence".split()
    return f"{table(head, rows)}\n{len(rows)} networks"


def layers_text(rows: Sequence[Any]) -> str:
    """Render the layers of a network; sizes are for one image as float32."""
    lines = [
        [
            row.name or "(all)",
            row.type,
            "x".join(map(str, row.shape)) or "-",
            count_text(row.n_features),
            "-" if row.n_bytes is None else size_text(row.n_bytes),
        ]
        for row in rows
    ]
    return table(["layer", "type", "shape", "features", "per image"], lines)


def count_text(count: int | None) -> str:
    """Write a whole number with separators, or a dash."""
    return "-" if count is None else f"{count:,}"


def short_count(count: int | None) -> str:
    """Write a large number with a unit.

    Examples
    --------
    >>> short_count(25_557_032)
    '25.6M'
    """
    if count is None:
        return "-"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def tree(values: dict[str, Any], indent: str = "") -> str:
    """Render nested dictionaries, one value a line."""
    lines: list[str] = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", tree(value, indent + "  ")] if value else []
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines += [f"{indent}{name}:", *(tree(item, indent + "  ") for item in value)]
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"{indent}{name}: {'none' if shown == '' else shown}")
    return "\n".join(lines)
