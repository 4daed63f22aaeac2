"""Text that the shell prints for a person: plain tables, sizes and counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from featx.slices import listed
from featx.typing import JsonObject


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns: text to the left, numbers to the right.

    Examples
    --------
    >>> print(table(["name", "n"], [["a", "10"], ["bcd", "9"]]))
    name   n
    a     10
    bcd    9
    """
    head, *rows = ([one_line(cell) for cell in row] for row in (head, *rows))
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
    return text in ("", "-") or text.lstrip("-")[:1].isdigit()


def one_line(text: str) -> str:
    """Return `text` with line breaks and control characters escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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


@dataclass(frozen=True)
class TextTable:
    """A table with lines above and below it, for a terminal and for a notebook."""

    above: Sequence[str]
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    below: Sequence[str]

    def text(self) -> str:
        """For a terminal: all but the first line indented."""
        shown = table(self.head, self.rows).split("\n") if self.head else []
        lines = [*self.above, *shown, *self.below]
        return "\n".join([lines[0], *(f"  {line}" for line in lines[1:])])

    def html(self) -> str:
        """For a notebook."""
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.head)
        rows = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in self.rows)
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        above, below = (
            "".join(f"<div>{escape(line)}</div>" for line in lines)
            for lines in (self.above, self.below)
        )
        return f"{above}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}"


def leaderboard_sheet(found: JsonObject) -> TextTable:
    """Lay out a comparison, the best line first."""
    head = ["cache", "tap", "head", found["metric"], "95 % interval", "LogME", "fit s"]
    cut, rows = found.get("cut"), []
    for row in found["rows"]:
        score, ms = row["score"], row["ms_per_image"]
        rows.append(
            [
                Path(row["cache"]).name,
                row["tap"],
                row["head"],
                f"{score['value']:.4f}",
                f"{_end(score['low'])} - {_end(score['high'])}",
                f"{row['logme']:.3f}",
                f"{row['fit_seconds']:.2f}",
                str(row["bytes_per_image"]),
                "-" if ms is None else f"{ms:.2f}",
                "*" if row["pareto"] else "",
                *(_cut_cells(row) if cut else ()),
            ]
        )
    best, base = found["selected"]["score"], found["baseline"][found["metric"]]["value"]
    return TextTable(
        [f"{found['n_samples']} rows, {found['folds']} outer folds; * is on the Pareto front"],
        [*head, "bytes", "ms", "*", *(("above %", "map KiB") if cut else ())],
        rows,
        [
            *(_cut_lines(cut) if cut else ()),
            f"choosing the best of these is worth {best['value']:.4f} "
            f"({_end(best['low'])} - {_end(best['high'])}); baseline {base:.4f}",
            *_warnings(found),
        ],
    )


def _cut_cells(row: JsonObject) -> list[str]:
    above, size = row["above"], row["map_bytes"]
    shown = "-" if above is None else f"{100 * above:.0f}"
    return [shown, "-" if size is None else f"{size / 1024:.1f}"]


def _cut_lines(cut: JsonObject) -> list[str]:
    if cut["layer"] is None:
        return [f"tune: nowhere to cut: {cut['reason']}"]
    return [
        f"tune: cut at {cut['layer']}: {cut['reason']}",
        f"next: featx tune SOURCE WEIGHTS.safetensors --backbone {cut['backbone']} "
        f"--layer {cut['layer']}",
    ]


def figures_sheet(found: JsonObject) -> TextTable:
    """Lay out metrics with the baseline beside, and the warnings below."""
    from featx.evaluation.conformal import set_lines  # loads scipy
    from featx.evaluation.decisions import decision_lines
    from featx.evaluation.slices import slice_lines

    listed = found["chosen"].get("params", {}).items()
    params = ", ".join(f"{k}={_short(v)}" for k, v in listed if not isinstance(v, list | dict))
    left_out = "".join(f", {n} {why}" for why, n in found["excluded"].items())
    rows = []
    for name, figure in found["test"].items():
        interval = f"{_end(figure['low'])} - {_end(figure['high'])}"
        beside = found["baseline"].get(name)
        base = f"{beside['value']:.4f}" if beside else ""
        rows.append([name, f"{figure['value']:.4f}", interval, base])
    below = _by_k(found)
    below += list(decision_lines(found["decisions"])) if found.get("decisions") else []
    below += set_lines(found["sets"]) if found.get("sets") else []
    if found.get("slices"):
        first, *others = slice_lines(found["slices"])
        several = " times " in str(found.get("measured_by"))
        below += [f"{first}, on the first split" if several else first, *others]
    if "measured_by" in found:
        below.append(f"measured by {found['measured_by']}{_trained_text(found)}")
    else:
        below.append(f"measured on {found['n_test']} rows that the model never saw")
    below += _warnings(found)
    if found.get("trained_on"):
        below.append(f"model: {found['model'] or 'not saved; --out MODEL saves it'}")
    return TextTable(
        [
            f"{found['head']} ({params or 'nothing to choose'}) on {found['tap']}: "
            f"{found['n_train']} training rows, {found['n_test']} test rows{left_out}"
        ],
        ["metric", "value", "95 % interval", "baseline"],
        rows,
        below,
    )


def _by_k(found: JsonObject) -> list[str]:
    """Say what a protocol is worth for each number of neighbours, or of rows of a class."""
    lines = []
    few = "shots" in found["chosen"].get("params", {})
    for k, one in found["chosen"].get("by_k", {}).items():
        said = f"{one['value']:.4f} ({_end(one['low'])} - {_end(one['high'])})"
        alone = f", single draws {one['lowest']:.4f} to {one['highest']:.4f}" if few else ""
        lines.append(f"{f'{k} rows of each class' if few else f'k = {k}'}: {said}{alone}")
    return lines


_ROWS_SHOWN = 60


def prediction_sheet(result: Any) -> TextTable:
    """Lay out predictions, one image a line; those in a file are counted only."""
    counts = f"{result.predicted} predicted, {result.failed} failed"
    if result.unfamiliar is not None:
        counts += f", {result.unfamiliar} unlike the training images"
    labels = listed([f"{one_line(str(name))} ({n})" for name, n in result.labels.items()])
    above = [f"{result.out}: {counts}" if result.out else counts, *([labels] if labels else [])]
    rows = [
        [
            str(row["path"] or row["id"]),
            _shown(row["label"]) + (" (abstained)" if row.get("abstained") else ""),
            _shown(row["confidence"]),
            {True: "yes", False: "no", None: "-"}[row["unfamiliar"]],
            f"{row['nearest']} ({_shown(row['nearest_label'])})" if row["nearest"] else "-",
            row["error"] or "",
        ]
        for row in result.rows[:_ROWS_SHOWN]
    ]
    more = len(result.rows) - len(rows)
    below = [f"and {more} more; --out FILE keeps all"] if more > 0 else []
    head = ["image", "label", "confidence", "unfamiliar", "nearest", "error"]
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return TextTable(above, head if rows else [], rows, below)


def _shown(value: object) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _warnings(found: JsonObject) -> list[str]:
    return [f"warning ({w['code']}): {one_line(w['message'])}" for w in found["warnings"]]


def _trained_text(found: JsonObject) -> str:
    """Say which rows the model saw, where it saw others than the head that was measured."""
    if not found.get("trained_on"):
        return ""
    if found["trained_on"] == found["n_train"]:
        return f"; the model is fitted on these {found['n_train']} training rows"
    return f"; then the model is fitted on all {found['trained_on']} rows"


def _end(value: float | None) -> str:
    return "no end" if value is None else f"{value:.4f}"


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
