"""What the shell prints for a person: plain tables, sizes and counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from featx.portion import listed
from featx.run.planning import Plan


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
    return text in ("", "-") or text.lstrip("-")[:1].isdigit()


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


def extract_text(found: dict[str, Any]) -> str:
    """Render what a run of `featx.extract` did."""
    changes = ", ".join(f"{n} {name}" for name, n in found["difference"].items() if n)
    cache = found["cache"] + (f" (shard {found['shard']})" if found["shard"] else "")
    if found["dry_run"]:
        return (
            f"{cache}: would embed {found['embedded']}, reuse {found['reused']}, "
            f"drop {found['removed']} ({changes or 'no difference'})"
            + (f"\n  {Plan(**found['plan']).describe()}" if found["plan"] else "")
            + ignored_text(found)
        )
    if not found["embedded"]:
        did = f"nothing to embed, {found['reused']} rows reused, no forward pass"
    else:
        did = (
            f"{found['embedded']} embedded ({found['device']}, {found['precision']}), "
            f"{found['reused']} reused"
        )
    shares = ", ".join(f"{name} {share:.0%}" for name, share in found["shares"].items() if share)
    return (
        f"{cache}: {did}, {found['failed']} failed, {found['removed']} removed; "
        f"{_widths_text(found['taps'])}\n"
        f"  since last time: {changes or 'no difference'}\n"
        f"  {_time_text(found)}"
        + (f"; time of the threads: {shares}" if found["embedded"] else "")
        + ignored_text(found)
    )


def _time_text(found: dict[str, Any]) -> str:
    """Say the time since the start, and how fast images were embedded once that had begun."""
    seconds = found["seconds"]
    text = f"{seconds['total']:.1f} s in all"
    if not found["embedded"]:
        return text
    start = seconds["total"] - seconds["compile"] - seconds["run"]
    compiling = f", compiling {seconds['compile']:.1f} s" if seconds["compile"] else ""
    return (
        f"{text}, {found['embedded'] / seconds['total']:.1f} img/s: starting {start:.1f} s"
        f"{compiling}, then {found['images_per_second']:.1f} img/s"
    )


def ignored_text(found: dict[str, Any], most: int = 12) -> str:
    r"""Say which files of a source were passed over, by extension, most frequent first.

    Examples
    --------
    >>> ignored_text({"ignored": 5, "ignored_by_extension": {".txt": 1, ".heic": 4}})
    '\n  5 ignored: .heic 4, .txt 1'
    """
    if not found["ignored"]:
        return ""
    kinds = sorted(found["ignored_by_extension"].items(), key=lambda kind: (-kind[1], kind[0]))
    shown = [f"{name} {count}" for name, count in kinds]
    return f"\n  {found['ignored']} ignored" + (f": {listed(shown, most)}" if shown else "")


def _widths_text(taps: dict[str, int]) -> str:
    widths = ", ".join(f"{name} {width}" for name, width in taps.items())
    return f"features: {widths}" if len(taps) > 1 else f"{sum(taps.values())} features"


def merge_text(found: dict[str, Any]) -> str:
    """Render what `featx.cache.merge` wrote."""
    where = f"in {found['parts']} parts" if found["parts"] else "in one file"
    of = f" of {len(found['sources'])} caches" if len(found["sources"]) > 1 else ""
    without = f"; without shard {listed(found['missing'])}" if found["missing"] else ""
    return f"{found['cache']}: {found['rows']} rows{of} {where}{without}"


@dataclass(frozen=True)
class Sheet:
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


def leaderboard_sheet(found: dict[str, Any]) -> Sheet:
    """Lay out a comparison, the best line first."""
    head = ["cache", "tap", "head", found["metric"], "95 % interval", "LogME", "fit s"]
    rows = []
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
            ]
        )
    best, base = found["selected"]["score"], found["baseline"][found["metric"]]["value"]
    return Sheet(
        [f"{found['n_samples']} rows, {found['folds']} outer folds; * is on the Pareto front"],
        [*head, "bytes", "ms", "*"],
        rows,
        [
            f"choosing the best of these is worth {best['value']:.4f} "
            f"({_end(best['low'])} - {_end(best['high'])}); baseline {base:.4f}",
            *_warnings(found),
        ],
    )


def figures_sheet(found: dict[str, Any]) -> Sheet:
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
    below = list(decision_lines(found["decisions"])) if found.get("decisions") else []
    below += set_lines(found["sets"]) if found.get("sets") else []
    below += slice_lines(found["slices"]) if found.get("slices") else []
    if "measured_by" in found:
        below.append(f"measured by {found['measured_by']}{_trained_text(found)}")
    else:
        below.append(f"measured on {found['n_test']} rows that the model never saw")
    below += _warnings(found)
    if found.get("trained_on"):
        below.append(f"model: {found['model'] or 'not saved; --out MODEL saves it'}")
    return Sheet(
        [
            f"{found['head']} ({params or 'nothing to choose'}) on {found['tap']}: "
            f"{found['n_train']} training rows, {found['n_test']} test rows{left_out}"
        ],
        ["metric", "value", "95 % interval", "baseline"],
        rows,
        below,
    )


_ROWS_SHOWN = 60


def prediction_sheet(result: Any) -> Sheet:
    """Lay out predictions, one image a line; those in a file are counted only."""
    counts = f"{result.predicted} predicted, {result.failed} failed"
    if result.unfamiliar is not None:
        counts += f", {result.unfamiliar} unlike the training images"
    labels = ", ".join(f"{name} ({n})" for name, n in result.labels.items())
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
    return Sheet(above, head if rows else [], rows, below)


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _warnings(found: dict[str, Any]) -> list[str]:
    return [f"warning ({w['code']}): {w['message']}" for w in found["warnings"]]


def _trained_text(found: dict[str, Any]) -> str:
    """Say which rows the model saw, where it saw others than the head that was measured."""
    if not found.get("trained_on"):
        return ""
    if found["trained_on"] == found["n_train"]:
        return f"; the model is fitted on these {found['n_train']} training rows"
    return f"; then the model is fitted on all {found['trained_on']} rows"


def _end(value: float | None) -> str:
    return "no end" if value is None else f"{value:.4f}"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


_SHOWN = 8  # findings of a kind on a terminal


def audit_text(found: Any) -> str:
    """Render what `featx.audit` found: counts, the first of each kind, and the rate."""
    told = found.to_dict()
    names = ("conflicts", "near_duplicates", "label_issues", "outliers", "failed")
    counts = ", ".join(f"{told[name]} {name.replace('_', ' ')}" for name in names)
    lines = [f"{told['rows']} rows: {counts}"]
    for kind in dict.fromkeys(finding["kind"] for finding in found.findings):
        some = [finding for finding in found.findings if finding["kind"] == kind]
        rows = [[_cell(f[c]) for c in ("id", "score", "label", "suggested", "other")] for f in some]
        lines += ["", kind, table(["id", "score", "label", "suggested", "other"], rows[:_SHOWN])]
        if len(some) > _SHOWN:
            lines.append(f"and {len(some) - _SHOWN} more; --out FILE has them all")
    lines += [f"warning {w['code']}: {w['message']}" for w in told["warnings"]]
    if (rate := told["error_rate"]) is not None:
        shares = [f"{100 * rate[name]:.1f} %" for name in ("value", "low", "high")]
        lines += ["", f"wrong labels: {shares[0]} (95 % interval {shares[1]} to {shares[2]})"]
    elif told["label_issues"]:
        lines += ["", "flags are not a rate: --review 100 --review-out FILE draws rows to look at"]
    return "\n".join(lines)


def search_text(found: Sequence[Any]) -> str:
    """Render what `featx.search` found, a table for each query."""
    parts = []
    for match in found:
        rows = [[near.id, _cell(near.label), f"{near.similarity:.4f}"] for near in match.matches]
        parts.append(f"{match.query}\n{table(['id', 'label', 'similarity'], rows)}")
    return "\n\n".join(parts)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "-" if value is None else str(value)
