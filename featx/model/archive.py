"""The file of a model: a zip with a fixed list of members, each with its digest."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featx.cache.h5file import is_cache
from featx.errors import ModelError
from featx.files import size_text, write_bytes

FORMAT_VERSION = 1
N_REFERENCES = 8

DIGESTS = "digests.json"
REQUIRED = ("meta.json", "spec.json", "figures.json", "seen.bin", "head.skops")
REFERENCES = tuple(f"reference-{k}.png" for k in range(N_REFERENCES))
REPORT = "report.json"
VECTORS, TRAINING = "training.npy", "training.json"
SUMS = "sums.npz"
OPTIONAL = ("tested.json", REPORT, "references.npy", VECTORS, TRAINING, SUMS, *REFERENCES)
"""Members that a model file may hold, beside those that it must."""

_SMALL = 64 << 20  # bytes of any member but the head
_LARGE = 8 << 30


def write_archive(path: Path, members: Mapping[str, bytes]) -> None:
    """Write a model file durably, with the digest of every member.

    Raises
    ------
    CacheError
        If it cannot be written.
    """
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in {**members, DIGESTS: dump(digests)}.items():
            # A fixed time: the same fit gives the same bytes.
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            small = name.endswith(".json")
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED if small else zipfile.ZIP_STORED)
    write_bytes(path, file.getvalue())


def read_archive(path: Path) -> dict[str, bytes]:
    """Read every member of a model file, once all of it is known to be as it was written.

    Raises
    ------
    ModelError
        If it is missing, no model, damaged, of a newer version, or holds what a model must not.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = _members(path, archive)
    except FileNotFoundError:
        raise ModelError(f"no such model: {path}") from None
    except OSError as error:
        raise ModelError(f"model {path} cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError) as error:
        if isinstance(error, ModelError):
            raise
        if is_cache(path):
            raise ModelError(
                f"{path} is not a whole featx model: it is a cache; name a model that `featx fit` "
                "has made of one"
            ) from None
        raise ModelError(
            f"{path} is not a whole featx model ({' '.join(str(error).split())}); copy it again, "
            "or write it again with `featx fit`"
        ) from None
    _check_digests(path, members)
    return members


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, bytes]:
    listed = archive.infolist()
    names = [entry.filename for entry in listed]
    allowed = {*REQUIRED, *OPTIONAL, DIGESTS}
    odd = [name for name in names if name not in allowed]
    twice = len(names) != len(set(names))
    absent = [name for name in (*REQUIRED, DIGESTS) if name not in names]
    if absent or odd or twice:
        what = f"lacks {absent[0]}" if absent else f"holds {odd[0]!r}" if odd else "repeats a name"
        raise ModelError(f"{path} is not a featx model: it {what}")
    for entry in listed:
        limit = _LARGE if entry.filename == "head.skops" else _SMALL
        if entry.file_size > limit:
            raise ModelError(
                f"{path} is not to be trusted: {entry.filename} has {size_text(entry.file_size)}, "
                f"and at most {size_text(limit)} are read"
            )
    return {entry.filename: _read(path, archive, entry) for entry in listed}


def _read(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(entry) as file:
            # The size that the entry claims does not prove the size that it unpacks to.
            data = file.read(entry.file_size + 1)
    except Exception as error:  # zlib and zipfile raise several types on damaged bytes
        raise ModelError(
            f"{path} is damaged: {entry.filename}: {' '.join(str(error).split())}"
        ) from None
    if len(data) != entry.file_size:
        raise ModelError(f"{path} is damaged: {entry.filename} is not of the size that it claims")
    return data


def _check_digests(path: Path, members: dict[str, bytes]) -> None:
    digests = load(path, DIGESTS, members.pop(DIGESTS))
    for name, data in members.items():
        if digests.get(name) != hashlib.sha256(data).hexdigest():
            raise ModelError(f"{path} is damaged or was changed: {name} has another digest")
    if set(digests) != set(members):
        raise ModelError(f"{path} is damaged: its digests name other members")


def dump(value: object) -> bytes:
    """Write JSON as bytes."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, indent=1)
    # Bytes of a name that is no UTF-8 become what JSON writes for them.
    return text.encode(errors="backslashreplace")


def load(path: str | os.PathLike[str], name: str, data: bytes) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    ModelError
        If it is none.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: {name} is no JSON ({error})") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path} is damaged: {name} is no JSON object")
    return found
