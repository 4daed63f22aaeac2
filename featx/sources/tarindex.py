"""The index of a tar: one pass over its headers, kept so that the next run makes none."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from featx.errors import SourceError
from featx.files import writing
from featx.images import image_extensions
from featx.items import Stamp, printable
from featx.sources.folder import PassedOver
from featx.sources.places import open_file, stamp_of
from featx.sources.remote import is_url
from featx.sources.table import encoding_of_mark

log = logging.getLogger("featx")

NOTES = ("cls", "txt", "json")
"""Members that say something of the image with the same key."""

BESIDE = "tar-pictures-beside"
"""Pictures such as ``x.seg.png`` beside ``x.jpg``, of which no other member says something."""
UNUSED = "tar-labels-unused"
"""Members such as ``x.y.cls`` without a picture ``x.y.png``."""
NOT_UTF_8 = "tar-text-encoding"
"""Members of text that are read as Windows-1252."""

_BLOCK = 512  # bytes; what headers and contents of a tar are rounded to
_MAX_NOTE = 1 << 20
_MAX_HEADER = 1 << 20  # of the name, or of the PAX records, of one member
_MAX_GLOBAL = 1000  # PAX records that hold for all members; each member gets a copy
_EXTENDED = (b"L", b"K", b"x", b"g", b"X")  # GNU's long names, PAX records
_MAX_PICTURE = 1 << 30
_RECENT_NS = 2_000_000_000  # a file changed this shortly before may change again unseen
_THIS_OR_ABOVE = (".", "..")  # a way that a name goes, not a hidden folder
_VERSION = "5"  # raised with what an index holds
_COMPRESSED = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd",
}  # fmt: skip


@dataclass(frozen=True)
class TarIndex:
    """The images of one tar.

    Parameters
    ----------
    table
        Arrow, one row an image: ``name``, ``offset`` and ``size`` of its bytes, and the text of the
        members beside it: ``cls``, ``txt``, ``json``.
    refused
        ``name -> reason`` of members that are not readable images.
    ignored
        Number of other members passed over.
    odd
        ``code -> (number, first name)`` of members whose names have several dots and that were
        passed over, although they may be meant: ``BESIDE`` and ``UNUSED``; of text that is not
        UTF-8: ``NOT_UTF_8``.
    """

    table: pa.Table
    refused: dict[str, str]
    ignored: PassedOver
    odd: dict[str, tuple[int, str]] = field(default_factory=dict)


def index_tar(place: str, stamp: Stamp) -> TarIndex:
    """Give the index of a tar, from the user's cache folder if the tar has not changed.

    Raises
    ------
    SourceError
        If it is not a tar, or a compressed one.
    """
    kept = _kept_at(place, stamp)
    if (found := _load(kept)) is not None:
        return found
    with open_file(place, stamp) as file:
        found = _Pass(place, file, stamp.size).index()
    old = stamp.mtime_ns and stamp.mtime_ns < time.time_ns() - _RECENT_NS
    if old and stamp_of(place) == stamp:
        _keep(found, kept)
    return found


@dataclass
class _Sample:
    """Facts of the members of one key, as far as they are read.

    Of each it is known what stands between the first dot of its name and the last: nothing in a
    plain name.
    """

    images: list[tuple[str, str, int, int]] = field(default_factory=list)
    notes: dict[tuple[str, str], str] = field(default_factory=dict)

    def rows(self) -> Iterator[tuple[str, int, int, list[str | None] | None]]:
        """Give the images with their notes; None for one that is about a plainly named one."""
        plain = any(not middle for _, middle, _, _ in self.images)
        for name, middle, offset, size in self.images:
            own = [self.notes.get((middle, note)) for note in NOTES]
            if not plain:
                all_of_key = (self.notes.get(("", note)) for note in NOTES)
                own = [
                    one if one is not None else of for one, of in zip(own, all_of_key, strict=True)
                ]
            elif middle and not any(text is not None for text in own):
                yield name, offset, size, None
                continue
            yield name, offset, size, own

    def unused(self) -> list[tuple[str, str]]:
        """Notes that no image goes with."""
        middles = {middle for _, middle, _, _ in self.images}
        return [
            (middle, note)
            for middle, note in self.notes
            if middle not in middles and (middle or not self.images)
        ]


class _Member(tarfile.TarInfo):
    """A member whose long names and extended headers are bounded before they are read."""

    def _proc_member(self, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENDED and self.size > _MAX_HEADER:
            raise tarfile.ReadError("a header of more than a megabyte")
        return super()._proc_member(tarfile_)  # type: ignore[misc, no-any-return]


class _Pass:
    """One pass over the headers of a tar."""

    def __init__(self, place: str, file: BinaryIO, size: int) -> None:
        self.place, self.file, self.size = place, file, size
        self.extensions = image_extensions()
        self.keys: dict[str, _Sample] = {}
        self.seen: dict[str, int] = {}
        self.refused: dict[str, str] = {}
        self.ignored = PassedOver()
        self.odd: dict[str, tuple[int, str]] = {}
        self.cut = False

    def index(self) -> TarIndex:
        for member in self._members():
            self._take(member)
        rows: list[tuple[Any, ...]] = []
        for key, found in self.keys.items():
            for middle, note in found.unused():
                self.ignored.take(f"{key}.{note}")
                if middle and (note == "cls" or f".{middle.lower()}" in self.extensions):
                    self._say(UNUSED, f"{key}.{middle}.{note}".removeprefix("/"))
            for name, offset, size, notes in found.rows():
                if notes is None:
                    self.ignored.take(name)
                    self._say(BESIDE, name)
                else:
                    rows.append((name, offset, size, *notes))
        return TarIndex(_table(rows), self.refused, self.ignored, self.odd)

    def _say(self, code: str, name: str) -> None:
        count, first = self.odd.get(code, (0, name))
        self.odd[code] = (count + 1, first)

    def _members(self) -> Iterator[tarfile.TarInfo]:
        """Yield members until the end, or until what is left cannot be read."""
        start = self.file.read(8)
        for magic, name in _COMPRESSED.items():
            if start.startswith(magic):
                raise SourceError(
                    f"{self.place} is compressed ({name}), so that its members cannot be read one "
                    "by one; decompress it first (images hardly shrink)"
                )
        self.file.seek(0)
        try:
            tar = tarfile.open(fileobj=self.file, mode="r:", tarinfo=_Member)
        except SourceError:
            raise
        except (tarfile.TarError, OSError, ValueError, RecursionError) as error:
            raise SourceError(f"{self.place} is not a tar file: {_one_line(error)}") from None
        after = -1
        try:
            while (member := tar.next()) is not None:
                if tar.offset <= after:
                    raise tarfile.ReadError("a member of negative size")
                after = tar.offset
                if len(tar.pax_headers) > _MAX_GLOBAL:
                    raise tarfile.ReadError("too many headers for all members")
                tar.members = []  # type: ignore[attr-defined]  # kept for nothing that is used here
                yield member
        except SourceError:
            raise
        except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError):
            pass  # what was wrong shows in what stands at the end
        self._check_end(max(after, tar.offset))

    def _check_end(self, offset: int) -> None:
        """Note a tar that ends without the empty block that every whole one has."""
        if self.cut:
            return  # said of the member in which it happens
        self.file.seek(offset)
        block = self.file.read(_BLOCK)
        if len(block) == _BLOCK and not any(block):
            return
        self._refuse(
            "(end)",
            "the tar is cut off: it has no end mark, and what was to follow is not there"
            if len(block) < _BLOCK
            else f"the tar is damaged at byte {offset}; what follows cannot be read",
        )

    def _take(self, member: tarfile.TarInfo) -> None:
        name = printable(member.name).removeprefix("./")
        folder, _, base = name.rpartition("/")
        stem, _, rest = base.partition(".")
        middle, _, kind = rest.rpartition(".")
        kind = kind.lower()
        is_image = os.path.splitext(base)[1].lower() in self.extensions  # noqa: PTH122
        if member.isdir():
            return
        if any(part.startswith(".") and part not in _THIS_OR_ABOVE for part in name.split("/")):
            self.ignored.take(name, hidden=True)
        elif is_image or kind in NOTES:
            if middle and not is_image and (name in self.seen or self._reason_against(member)):
                self.ignored.take(name)  # it may be anything: x.boxes.json of ten megabytes
            elif reason := self._reason_against(member):
                self._refuse(name, reason)
            elif name in self.seen:
                self.seen[name] += 1
                self._refuse(
                    f"{name} ({self.seen[name]})", "stands more than once; the first is taken"
                )
            else:
                self.seen[name] = 1
                found = self.keys.setdefault(f"{folder}/{stem}", _Sample())
                if is_image:
                    found.images.append((name, middle, member.offset_data, member.size))
                else:
                    found.notes[middle, kind] = self._text(member, name)
        else:
            self.ignored.take(name)

    def _text(self, member: tarfile.TarInfo, name: str) -> str:
        """Read text as a table is read: by its mark, as UTF-8, else as Windows-1252."""
        self.file.seek(member.offset_data)
        data = self.file.read(member.size)
        try:
            return data.decode(encoding_of_mark(data) or "utf-8").strip()
        except UnicodeDecodeError:
            self._say(NOT_UTF_8, name)
            return data.decode("cp1252", "backslashreplace").strip()

    def _reason_against(self, member: tarfile.TarInfo) -> str | None:
        if member.issym() or member.islnk():
            return f"a link (to {printable(member.linkname)}); links in a tar are not followed"
        if not member.isreg() or member.issparse():
            return "not a regular file"
        limit = _MAX_NOTE if member.name.lower().endswith(NOTES) else _MAX_PICTURE
        if member.size > limit:
            return f"{member.size} bytes; at most {limit} are read"
        if member.offset_data + member.size > self.size:
            self.cut, there = True, max(0, self.size - member.offset_data)
            return f"the tar is cut off: {there} of its {member.size} bytes are there"
        return None

    def _refuse(self, name: str, reason: str) -> None:
        self.refused[name] = reason


def _table(rows: list[tuple[Any, ...]]) -> pa.Table:
    kinds = [pa.large_string(), pa.int64(), pa.int64(), *[pa.large_string()] * len(NOTES)]
    columns = list(zip(*rows, strict=True)) or [()] * len(kinds)
    arrays = [pa.array(c, kind) for c, kind in zip(columns, kinds, strict=True)]
    return pa.table(arrays, names=["name", "offset", "size", *NOTES])


def _kept_at(place: str, stamp: Stamp) -> Path:
    from featx.files import cache_home

    where = place if is_url(place) else os.path.realpath(place)
    text = "\n".join([_VERSION, where, str(stamp.size), str(stamp.state)])
    name = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
    return cache_home() / "tars" / f"{name[:32]}.arrow"


def _load(path: Path) -> TarIndex | None:
    try:
        with pa.memory_map(os.fspath(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        table.validate(full=True)
        said = json.loads(table.schema.metadata[b"featx"])
        ignored = PassedOver({str(kind): int(n) for kind, n in said["ignored"].items()})
        if table.schema.names != ["name", "offset", "size", *NOTES]:
            return None
        odd = {str(code): (int(n), str(first)) for code, (n, first) in said["odd"].items()}
        return TarIndex(table.replace_schema_metadata(None), said["refused"], ignored, odd)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        log.warning("the index %s is damaged; it is made anew", path)
        return None


def _keep(index: TarIndex, path: Path) -> None:
    """Write an index whole or not at all; without a place for it the next run makes it again."""
    told = {"refused": index.refused, "ignored": index.ignored, "odd": index.odd}
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        table = index.table.replace_schema_metadata({"featx": json.dumps(told)})
        with writing(path, mode=0o600) as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    except OSError as error:
        log.debug("the index of a tar is not kept: %s", error)


def _one_line(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error))[:200] or type(error).__name__
