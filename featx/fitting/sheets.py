"""Contact sheets of what an audit or a search found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featx.cache.cache import Cache
from featx.fitting.findings import Audit, Finding
from featx.fitting.looks import small_picture
from featx.model.references import image_reader
from featx.reporting.sheet import Cell, Section, Sheet, write_sheet
from featx.typing import JsonObject

if TYPE_CHECKING:
    from featx.fitting.nearest import Match

_SIDE = 160
_MOST, _MOST_OF_REPORT = 200, 12  # entries of a section

_TITLES = {
    "conflict": ("Conflicting labels", "The same bytes under different labels."),
    "near-duplicate": ("Near duplicates", "Pairs that show the same picture."),
    "label": (
        "Likely label errors",
        "The most suspect first, by a head that had not seen them. Not all of them are errors: "
        "look at them, and estimate the rate with --review.",
    ),
    "outlier": ("Outliers", "Pictures far from all others, or with a fault of their pixels."),
    "failed": ("Failed files", "Pictures that could not be read."),
}


def audit_sheet(path: Path, cache: Cache, found: Audit) -> None:
    """Write the contact sheet of an audit."""
    lead = f"{found.rows} rows of {cache.path.name}."
    sections = _sections(cache, found, _MOST)
    write_sheet(path, Sheet(f"Audit of {cache.path.name}", lead, sections))


def audit_for_report(cache: Cache, found: Audit) -> JsonObject:
    """Gather what a report shows of an audit: its counts, and the first findings with pictures.

    Returns
    -------
    shown : JSON-ready; `featx.reporting.ReportData.audit`
    """
    counts = {name: value for name, value in found.to_dict().items() if name != "out"}
    sections = [section.to_dict() for section in _sections(cache, found, _MOST_OF_REPORT)]
    return {"counts": counts, "sections": sections}


def _sections(cache: Cache, found: Audit, most: int) -> list[Section]:
    pictures, sections = _Pictures(cache), []
    for kind, (title, text) in _TITLES.items():
        some = [finding for finding in found.findings if finding["kind"] == kind]
        if some:
            more = f" The first {most} of {len(some)}." if len(some) > most else ""
            cells = [_cell(finding, pictures) for finding in _once(some)[:most]]
            sections.append(Section(f"{title} ({len(some)})", cells, text + more))
    return sections


def search_sheet(path: Path, cache: Cache, found: Sequence[Match]) -> None:
    """Write the contact sheet of a search."""
    pictures = _Pictures(cache)
    sections = [
        Section(
            match.query,
            [
                Cell(
                    (pictures(near.id),),
                    (near.id, str(near.label or ""), f"similarity {near.similarity:.4f}"),
                )
                for near in match.matches
            ],
        )
        for match in found
    ]
    lead = f"The nearest of {len(cache)} rows of {cache.path.name}."
    write_sheet(path, Sheet(f"Search in {cache.path.name}", lead, sections))


class _Pictures:
    """Small pictures by id, of those that can still be read."""

    def __init__(self, cache: Cache) -> None:
        self._cache, self._read = cache, image_reader(cache)

    def __call__(self, name: str | None) -> bytes | None:
        if name is None or self._cache.spec.is_external:
            return None
        return small_picture(self._cache, self._cache.row(name), self._read, _SIDE)


def _once(findings: list[Finding]) -> list[Finding]:
    """Leave out a conflict whose pair stands there the other way round."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for one in findings:
        if one["kind"] == "conflict" and (one["other"], one["id"]) in seen:
            continue
        seen.add((one["id"], str(one["other"])))
        kept.append(one)
    return kept


def _cell(finding: Finding, pictures: _Pictures) -> Cell:
    kind, score = finding["kind"], finding["score"]
    if kind == "failed":
        return Cell((None,), (finding["id"], finding["other"]))
    pair = kind in ("conflict", "near-duplicate")
    names = (finding["id"], finding["other"]) if pair else (finding["id"],)
    lines = [" = ".join(names) if pair else finding["id"]]
    if finding["label"] is not None:
        given = f"label {finding['label']}"
        other = finding["suggested"]
        lines.append(given if other is None else f"{given}, {'other' if pair else 'head'}: {other}")
    if kind == "outlier":
        lines.append(finding["other"])
    if score is not None:
        lines.append(f"score {score:.3f}")
    return Cell(tuple(pictures(name) for name in names), tuple(lines))
