"""How a text table is written: its characters, and what stands between its fields."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from featx.errors import SourceError
from featx.manifest import Note, note

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_PIECE = 1 << 20  # bytes that are decoded at a time
_HEADER = 1 << 20  # bytes within which the header must end
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SHOWN = {
    "utf-16": "UTF-16",
    "utf-16-le": "UTF-16",
    "utf-16-be": "UTF-16",
    "utf-32": "UTF-32",
    "cp1252": "Windows-1252",
}
_SEP_LINE = re.compile(r'"?sep=(.)"?\r?\n?', re.IGNORECASE)


@dataclass(frozen=True)
class Dialect:
    """How one table is written.

    Parameters
    ----------
    encoding
        A codec of Python.
    separator
        One character.
    skipped
        Lines before the header.
    names
        Of the columns, as the header has them.
    notes
        What was assumed.
    """

    encoding: str
    separator: str
    skipped: int
    names: tuple[str, ...]
    notes: tuple[Note, ...] = ()


def dialect_of(place: str, data: bytes | None) -> Dialect:
    """Find out how a table is written, and refuse one that cannot be read without a guess.

    Parameters
    ----------
    data
        The whole table, where it does not lie on this machine.

    Raises
    ------
    SourceError
        If its characters are of no known encoding, or a name stands twice in its header.
    """
    encoding = _encoding_of(place, data)
    start = next(_pieces(place, data), b"")[:_HEADER]
    text = codecs.getincrementaldecoder(encoding)("replace").decode(start)
    told = _SEP_LINE.match(text)
    if told:  # what Excel reads, and writes, before a header
        text = text[told.end() :]
    usual = told.group(1) if told else "\t" if place.lower().endswith(".tsv") else ","
    separator, names = (usual, _header(text, usual)) if told else _separator_of(text, usual)
    _require_distinct(place, names)
    notes = []
    if encoding in _SHOWN:
        text = f"{place} is read as {_SHOWN[encoding]}, not UTF-8; check names with accents"
        notes.append(note("table-encoding", text))
    if separator != usual:
        said = SEPARATORS.get(separator, repr(separator))
        text = f"{place} is read with {said} between its fields, not {SEPARATORS[usual]}"
        notes.append(note("table-separator", text))
    return Dialect(encoding, separator, int(bool(told)), tuple(names), tuple(notes))


def _pieces(place: str, data: bytes | None) -> Iterator[bytes]:
    with Path(place).open("rb") if data is None else io.BytesIO(data) as file:
        while piece := file.read(_PIECE):
            yield piece


def _encoding_of(place: str, data: bytes | None) -> str:
    start = next(_pieces(place, data), b"")
    for mark, name in _MARKS:
        if start.startswith(mark):
            return name if name == "utf-8-sig" else _require(place, data, name)
    if wide := _without_mark(start[:4096]):
        return _require(place, data, wide)
    if _decodes(place, data, "utf-8"):
        return "utf-8-sig"
    return _require(place, data, "cp1252")


def _without_mark(start: bytes) -> str:
    """Tell UTF-16 that does not say so by the zeros beside each Latin letter."""
    for encoding, zeros, letters in (("utf-16-le", 1, 0), ("utf-16-be", 0, 1)):
        beside, own = start[zeros::2], start[letters::2]
        if len(beside) > 3 and beside.count(0) > 0.8 * len(beside) and not own.count(0):
            return encoding
    return ""


def _decodes(place: str, data: bytes | None, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for piece in _pieces(place, data):
            decoder.decode(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _require(place: str, data: bytes | None, encoding: str) -> str:
    if not _decodes(place, data, encoding):
        shown = _SHOWN.get(encoding, encoding)
        raise SourceError(f"{place} is neither UTF-8 nor {shown} text; save it as UTF-8")
    return encoding


def _separator_of(text: str, usual: str) -> tuple[str, list[str]]:
    """Choose what the header is separated by: what gives a column `path`, else the usual one."""
    own = _header(text, usual)
    if "path" in own:
        return usual, own
    for other in SEPARATORS:
        names = _header(text, other)
        if "path" in (name.strip() for name in names) and len(names) > 1:
            return other, names
    return usual, own


def _header(text: str, separator: str) -> list[str]:
    lines = (line for line in io.StringIO(text, newline="") if line.strip("\r\n"))
    try:
        return next(csv.reader(lines, delimiter=separator), [])
    except csv.Error:
        return []


def _require_distinct(place: str, names: list[str]) -> None:
    for k, name in enumerate(names):
        if name and name in names[:k]:
            raise SourceError(
                f"{place}: column {name!r} stands twice in the header (columns "
                f"{names.index(name) + 1} and {k + 1}); rename one or leave it out"
            )
