"""Findings of an audit as files: its table, a sample to look at, the answers, corrected labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featx.auditing import Stratum, estimate_rate, review_sample
from featx.columns import excel_safe
from featx.errors import FitError, nearest
from featx.files import write_bytes
from featx.labels import look_like_measurements
from featx.selection.checks import Warn
from featx.typing import JsonObject

if TYPE_CHECKING:
    import os

    import pandas as pd

    from featx.cache.cache import Cache


KINDS = ("conflict", "near-duplicate", "label", "outlier", "failed")
COLUMNS = ("id", "kind", "score", "label", "suggested", "other")

Finding = dict[str, Any]


@dataclass(frozen=True)
class Audit:
    """The result of an audit; `to_dict` is the JSON of ``featx audit --json``.

    Parameters
    ----------
    rows
        Rows of the cache.
    findings
        One entry each, with the keys of `COLUMNS`: ``kind`` is one of `KINDS`; ``score`` is a
        similarity for a near duplicate, the label's quality from 0 (surely wrong) to 1 for a label,
        a modified z-score for an outlier.
    flagged
        Ids of the rows whose label is suspected: likely errors and conflicts.
    error_rate
        ``{"value", "low", "high"}`` of the share of wrong labels, from a review; else None. A
        number of flags is not a rate.
    quality
        Of every labelled row by id: how well its label agrees with held-out predictions, from 0
        (surely wrong) to 1.
    warnings
        ``{"code", "message"}`` each.
    out
        Where the table was written.
    """

    rows: int
    findings: list[Finding] = field(repr=False)
    flagged: tuple[str, ...] = field(default=(), repr=False)
    error_rate: dict[str, float] | None = None
    quality: dict[str, float] = field(default_factory=dict, repr=False)
    warnings: list[Warn] = field(default_factory=list)
    out: str | None = None

    def count(self, kind: str) -> int:
        """How many findings there are of a kind."""
        return sum(found["kind"] == kind for found in self.findings)

    def to_dict(self) -> JsonObject:
        """JSON-ready values; the findings themselves are in the table."""
        return {
            "rows": self.rows,
            "conflicts": self.count("conflict"),
            "near_duplicates": self.count("near-duplicate"),
            "label_issues": self.count("label"),
            "outliers": self.count("outlier"),
            "failed": self.count("failed"),
            "error_rate": self.error_rate,
            "out": self.out,
            "warnings": self.warnings,
        }

    def to_frame(self) -> pd.DataFrame:
        """Return the findings as a table."""
        import pandas as pd

        return pd.DataFrame(self.findings, columns=list(COLUMNS))


def finding(
    name: str,
    kind: str,
    *,
    score: float | None = None,
    label: object = None,
    suggested: object = None,
    other: str | None = None,
) -> Finding:
    """Make one entry."""
    values = (name, kind, score, label, suggested, other)
    return dict(zip(COLUMNS, values, strict=True))


SAMPLE_COLUMNS = ("id", "path", "label", "suggested", "stratum", "stratum_rows", "answer")
_OK, _WRONG = "ok", "wrong"
_EMPTY = ("", "None", "nan")  # how a missing label is written


@dataclass(frozen=True)
class ReviewedRow:
    """A person's answer for one row of a sample."""

    item: str
    label: str
    stratum: str
    stratum_rows: int
    answer: str

    @property
    def is_wrong(self) -> bool:
        """True if the label is not right."""
        return self.answer != _OK and self.answer != self.label


def write_table(path: Path, found: Audit, *, safe: bool = False) -> None:
    """Write the findings as CSV or Parquet.

    Parameters
    ----------
    safe
        Whether text of a CSV file is kept from being a formula: `featx.columns.excel_safe`.

    Raises
    ------
    FitError
        For another suffix.
    CacheError
        If the file cannot be written.
    """
    from featx.targets import GENERATOR

    suffix = path.suffix.lower()
    if suffix == ".csv":
        lines = ([one[c] for c in COLUMNS] for one in found.findings)
        kept = (map(excel_safe, line) for line in lines) if safe else lines
        write_bytes(path, _csv(COLUMNS, kept))
    elif suffix in (".parquet", ".pq"):
        import pyarrow as pa
        import pyarrow.parquet as parquet

        text = [c for c in COLUMNS if c != "score"]
        columns: dict[str, Any] = {
            c: pa.array([None if f[c] is None else str(f[c]) for f in found.findings], pa.string())
            for c in text
        }
        columns["score"] = pa.array([f["score"] for f in found.findings], pa.float64())
        table = pa.table({c: columns[c] for c in COLUMNS})
        table = table.replace_schema_metadata({GENERATOR: "audit"})
        file = io.BytesIO()
        parquet.write_table(table, file)
        write_bytes(path, file.getvalue())
    else:
        raise FitError(f"audit {path}: the suffix names no format; use .csv or .parquet")


def write_sample(
    path: Path, cache: Cache, labels: Sequence[object], found: Audit, n: int, seed: int
) -> None:
    """Write rows for a person to look at, half of them flagged, in an order that tells nothing.

    Raises
    ------
    FitError
        If the cache has no labels, or `n` is below 2.
    """
    rows = [row for row, label in enumerate(labels) if label is not None and label == label]
    if not rows:
        raise FitError(f"{cache.path} has no labels to review")
    flagged = set(found.flagged)
    marks = np.array([cache.ids[row] in flagged for row in rows], np.bool_)
    suggested = {f["id"]: f["suggested"] for f in found.findings if f["kind"] == "label"}
    sample = review_sample(marks, n, seed)
    order = np.random.default_rng(seed).permutation(len(sample))
    lines = []
    for k in order:
        at, stratum, size = sample[int(k)]
        row = rows[at]
        name = cache.ids[row]
        lines.append(
            [name, cache.paths[row], str(labels[row]), suggested.get(name, ""), stratum, size, ""]
        )
    write_bytes(path, _csv(SAMPLE_COLUMNS, lines))


def read_answers(path: Path) -> list[ReviewedRow]:
    """Read a sample that a person has filled in; rows without an answer are left out.

    Raises
    ------
    FitError
        If it is not such a file, or holds no answer.
    """
    return _answered(path, _read_review(path))


def _answered(path: Path, rows: list[ReviewedRow]) -> list[ReviewedRow]:
    answers = [row for row in rows if row.answer]
    if not answers:
        raise FitError(
            f"{path} holds no answer; fill the column `answer` with ok, wrong, or the right label"
        )
    return answers


def _read_review(path: Path) -> list[ReviewedRow]:
    """Read every row of a sample; the answer is empty where nobody has given one."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FitError(f"answers {path} cannot be read: {error}") from None
    lines = list(csv.DictReader(io.StringIO(text)))
    missing = [c for c in SAMPLE_COLUMNS if not lines or c not in lines[0]]
    if missing:
        raise FitError(
            f"{path} is not a review: it has no column {missing[0]!r}; write one with --review"
        )
    return [_review_row(line, path) for line in lines]


def _review_row(line: dict[str, str], path: Path) -> ReviewedRow:
    rows = line["stratum_rows"] or ""
    if not rows.isdigit():
        raise FitError(f"{path}: stratum_rows of {line['id']!r} is not a number")
    answer = (line["answer"] or "").strip()
    answer = answer.lower() if answer.lower() in (_OK, _WRONG) else answer
    return ReviewedRow(line["id"], line["label"], line["stratum"], int(rows), answer)


def _require_answers(path: Path, answers: list[ReviewedRow], now: dict[str, str]) -> None:
    """Refuse answers that are no label, and answers about labels that have changed.

    Raises
    ------
    FitError
        Naming the first.
    """
    names = {part for label in now.values() for part in (label, *label.split("|"))}
    numbers = look_like_measurements([label for label in now.values() if label not in _EMPTY])
    for answer in answers:
        if answer.label != now[answer.item]:
            raise FitError(
                f"{path}: {answer.item!r} had the label {answer.label!r}, and has "
                f"{now[answer.item]!r} now; write a new review"
            )
        said = answer.answer
        if said in (_OK, _WRONG) or said in names or numbers:
            continue
        if not set(said.split("|")) <= names:
            raise FitError(
                f"{path}: the answer {said!r} of {answer.item!r} is not ok, wrong or a label of "
                f"the cache{nearest(said, [_OK, _WRONG, *sorted(names)])}; say wrong where the "
                "right label is none of them"
            )


def with_rate(found: Audit, path: Path, cache: Cache, labels: Sequence[object], seed: int) -> Audit:
    """Add the estimate of the error rate that answers give.

    Raises
    ------
    FitError
        If the answers are of other rows, or a stratum has none.
    """
    rows = _read_review(path)
    answers = _answered(path, rows)
    _require_ids(path, answers, cache.ids)
    now = {name: str(label) for name, label in zip(cache.ids, labels, strict=True)}
    _require_answers(path, answers, now)
    sizes = {row.stratum: row.stratum_rows for row in rows}
    strata = [
        Stratum(
            size=sizes[name],
            reviewed=sum(a.stratum == name for a in answers),
            wrong=sum(a.stratum == name and a.is_wrong for a in answers),
        )
        for name in sorted(sizes)
    ]
    if sum(s.size for s in strata) > found.rows:
        raise FitError(
            f"{path} is the review of another cache: it is of {sum(s.size for s in strata)} rows, "
            f"and this cache has {found.rows}"
        )
    return replace(found, error_rate=estimate_rate(strata, seed=seed))


def _require_ids(path: Path, answers: list[ReviewedRow], known: Iterable[str]) -> None:
    """Refuse answers for rows that the cache does not have.

    Raises
    ------
    FitError
        Naming the first.
    """
    ids = set(known)
    odd = [answer.item for answer in answers if answer.item not in ids]
    if odd:
        raise FitError(
            f"{path} has answers for {len(odd)} ids that this cache does not have, first {odd[0]!r}"
        )


def write_labels(path: Path, found: Audit, reviewed: str | os.PathLike[str] | None) -> int:
    """Write corrected labels, ``id,label``, for ``featx extract --labels``.

    Returns
    -------
    n : number of corrections

    Raises
    ------
    FitError
        If nothing is to be corrected.
    """
    if reviewed is not None:
        fixes = {
            a.item: a.answer
            for a in read_answers(Path(reviewed))
            if a.is_wrong and a.answer != _WRONG
        }
    else:
        fixes = {f["id"]: str(f["suggested"]) for f in found.findings if f["kind"] == "label"}
    if not fixes:
        raise FitError(f"labels {path}: nothing is to be corrected, so no file is written")
    write_bytes(path, _csv(("id", "label"), fixes.items()))
    return len(fixes)


def _csv(columns: Iterable[str], lines: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if v is None else v for v in line] for line in lines])
    return text.getvalue().encode()


def conflict_findings(
    ids: Sequence[str], labels: Sequence[Any], conflicts: Iterable[Any]
) -> list[Finding]:
    """Name rows of one content and different labels, each beside one of another label."""
    found = []
    for group in conflicts:
        for row in group:
            other = next(r for r in group if labels[r] != labels[row])
            found.append(
                finding(
                    ids[row],
                    "conflict",
                    score=1.0,
                    label=labels[row],
                    suggested=labels[other],
                    other=ids[other],
                )
            )
    return found


def copy_findings(
    ids: Sequence[str], labels: Sequence[object], copies: Iterable[tuple[int, int, float]]
) -> list[Finding]:
    """Name pairs of rows that show one picture, the most alike first."""
    found = []
    for a, b, score in copies:
        mine, its = labels[a], labels[b]
        if score == 1.0 and mine != its and None not in (mine, its):
            continue  # the same bytes: a conflict, named already
        suggested = its if its != mine else None
        found.append(
            finding(
                ids[a],
                "near-duplicate",
                score=score,
                label=mine,
                suggested=suggested,
                other=ids[b],
            )
        )
    return sorted(found, key=lambda one: -one["score"])
