"""What an audit found: one entry for each finding, and what they add up to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from featx.selection.checks import Warn

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("conflict", "near-duplicate", "label", "outlier", "failed")
COLUMNS = ("id", "kind", "score", "label", "suggested", "other")

Finding = dict[str, Any]


@dataclass(frozen=True)
class Audit:
    """What was found; `to_dict` is the JSON of ``featx audit --json``.

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

    def to_dict(self) -> dict[str, Any]:
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
    label: Any = None,
    suggested: Any = None,
    other: str | None = None,
) -> Finding:
    """Make one entry."""
    values = (name, kind, score, label, suggested, other)
    return dict(zip(COLUMNS, values, strict=True))
