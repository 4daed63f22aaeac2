"""What a store says of an object, as the stamp by which a changed one is known."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from featx.manifest import Stamp

_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "Digest", "sha256")
_TIMES = (
    "mtime", "LastModified", "last_modified", "Last-Modified", "updated", "modified", "created",
)  # fmt: skip
_LAST_TAG = 1 << 59  # in 1988 as a time; what a tag becomes is not above it


def stamp_from(info: Mapping[str, Any]) -> Stamp:
    """Make the stamp of what fsspec tells of an object.

    A tag of the content counts before a time: it becomes a number that lies in the distant past,
    so that it is trusted at once.
    """
    size = int(info.get("size") or 0)
    for name in _TAGS:
        if number := _of_tag(info.get(name)):
            return Stamp(size, number)
    for name in _TIMES:
        if changed := _nanoseconds(info.get(name)):
            return Stamp(size, changed)
    return Stamp(size)


def is_other(stamp: Stamp, headers: Mapping[str, str]) -> bool:
    """Whether an HTTP answer shows that the object is no longer the one that has this stamp.

    What the answer is silent about counts as the same. `Content-MD5` and `Digest` are of the part
    that is sent, and say nothing.
    """
    total = headers.get("Content-Range", "").rpartition("/")[2]
    if stamp.size and total.isdecimal() and int(total) != stamp.size:
        return True
    tag, changed = _of_tag(headers.get("ETag")), _nanoseconds(headers.get("Last-Modified"))
    if not stamp.mtime_ns or stamp.mtime_ns in (tag, changed):
        return False
    return bool(tag if stamp.mtime_ns <= _LAST_TAG else changed)


def _of_tag(tag: Any) -> int:
    """A number for a tag, 0 for none; stores quote it in some answers and not in others."""
    text = str(tag or "").removeprefix("W/").strip('"')
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return 1 + (int.from_bytes(digest, "big") >> 5) if text else 0


def _nanoseconds(value: Any) -> int:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            try:
                value = parsedate_to_datetime(value)
            except ValueError:
                return 0
    if isinstance(value, datetime):
        value = (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    # Stores tell microseconds; a float holds no more.
    return round(value * 1e6) * 1000 if isinstance(value, (int, float)) else 0
