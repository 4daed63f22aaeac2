"""Which files may be replaced: those that featx wrote, known by a mark.

Where a format has room for it, the mark is inside: the generator of a page, the software of a
picture, the producer of an ONNX graph, the metadata of Parquet, the members of a model. CSV and
JSON lines have no such room: there the columns have to be exactly those of one of featx's tables,
in their order.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import warnings
import zipfile
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from featx.errors import CacheError, FitError
from featx.files import behind, remove_dead, require_plain, temporary_name
from featx.seen import KEY

if TYPE_CHECKING:
    from matplotlib.figure import Figure


GENERATOR = "featx"
"""The mark: generator of a page, software of a picture, producer of a graph, key in Parquet."""

MODEL_MEMBERS = {"meta.json", "spec.json", "head.skops", "digests.json"}

_HEAD = 4096  # bytes of a page, picture or graph that are looked at
_FIRST_LINE = 1 << 24  # bytes at most of a table's header, or of its first line of JSON
_OLD_REPORT = b"featx report</title>"  # of versions that wrote no generator
_BESIDE = {"confidence", "unfamiliar", "nearest", "nearest_label", "abstained", "set"}
_COSTS = {"logme", "fit_seconds", "bytes_per_image", "ms_per_image"}


def is_ours(path: Path, what: str) -> bool:
    """Tell whether a file is one that featx wrote as `what`; yes for kinds without a mark.

    Parameters
    ----------
    path
        A file that is not empty.
    what
        ``model``, ``report``, ``plot``, ``ONNX file``, ``weights``, ``predictions``, ``table``,
        ``audit``, ``review`` or ``labels``.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    known = _KINDS.get(what)
    return known is None or known(path)


def _is_model(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return set(archive.namelist()) >= MODEL_MEMBERS
    except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError):
        return False


def _is_report(path: Path) -> bool:
    head = _head(path)
    named = re.search(rb'<meta name="generator" content="featx', head)
    old = head.startswith(b"<!doctype html>") and _OLD_REPORT in head
    return named is not None or old


def _is_plot(path: Path) -> bool:
    head = _head(path)
    return head.startswith(b"\x89PNG\r\n\x1a\n") and b"tEXtSoftware\0featx" in head


def _is_onnx(path: Path) -> bool:
    # Field 1 is the version of the format, field 2 the producer.
    return re.match(rb"\x08.\x12.featx", _head(path), re.DOTALL) is not None


def _is_weights(path: Path) -> bool:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        head = file.read(min(length, _FIRST_LINE * 8))
    try:
        return KEY in json.loads(head).get("__metadata__", {})
    except (ValueError, AttributeError):
        return False


def _is_table(fits: Callable[[list[str]], bool]) -> Callable[[Path], bool]:
    def check(path: Path) -> bool:
        if _head(path).startswith(b"PAR1"):
            return _is_parquet(path, fits)
        return fits(_columns(path))

    return check


def _is_parquet(path: Path, fits: Callable[[list[str]], bool]) -> bool:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(path)
    except (pa.ArrowException, ValueError):
        return False
    return GENERATOR.encode() in (schema.metadata or {}) or fits(schema.names)


def _columns(path: Path) -> list[str]:
    """Columns of a CSV table, or keys of the first of some JSON lines."""
    with path.open("rb") as file:
        first = file.readline(_FIRST_LINE).decode("utf-8", "replace")
        try:
            if first.startswith("{"):
                return [str(key) for key, _ in json.loads(first, object_pairs_hook=list)]
            # A name may hold a line break: the header goes on then.
            lines = chain([first], (line.decode("utf-8", "replace") for line in file))
            return next(csv.reader(lines), [])
        except (ValueError, TypeError, RecursionError, csv.Error):
            return []


def _is_predictions(columns: list[str]) -> bool:
    if columns[:3] != ["id", "path", "label"] or columns[-1] != "error":
        return False
    return {name for name in columns[3:-1] if not name.startswith("p_")} <= _BESIDE


def _is_leaderboard(columns: list[str]) -> bool:
    first = ["cache", "backbone", "tap", "head", *columns[4:5], "low", "high"]
    return columns[:7] == first and set(columns[7:]) >= _COSTS


def _is_audit(columns: list[str]) -> bool:
    return columns == ["id", "kind", "score", "label", "suggested", "other"]


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


_KINDS: dict[str, Callable[[Path], bool]] = {
    "model": _is_model,
    "report": _is_report,
    "plot": _is_plot,
    "ONNX file": _is_onnx,
    "weights": _is_weights,
    "predictions": _is_table(_is_predictions),
    "table": _is_table(_is_leaderboard),
    "audit": _is_table(_is_audit),
    # A person may have written in them since.
    "review": lambda path: False,
    "labels": lambda path: False,
}


def require_writable(
    path: Path, what: str, *read: object, folder: bool = False, force: bool = False
) -> None:
    """Refuse a target that cannot be written, before any work is done for it.

    Parameters
    ----------
    path
        The target.
    what
        What it is to hold, for the message.
    *read
        What the work reads or writes besides; the names among it are not to be overwritten.
    folder
        The target may be a folder.
    force
        Replace a file that featx did not write.

    Raises
    ------
    CacheError
        If `path` is a folder and must not be one, or a device or pipe, or one of `read`,
        or a file that featx did not write, or its folder is missing or read-only.
    """
    path = behind(path)
    if path.is_dir() and not folder:
        raise CacheError(f"{what} {path} is a folder; give the name of a file")
    require_plain(path, what)
    names = [Path(name) for name in read if isinstance(name, str | os.PathLike)]
    if any(_same(path, name) for name in names):
        raise CacheError(f"{what} {path} would replace a file of this same command; name another")
    if not force:
        _require_ours(path, what)
    if not path.parent.is_dir():
        raise CacheError(f"{what} {path}: the folder {path.parent} does not exist; create it first")
    remove_dead(path)
    probe = temporary_name(path)
    try:
        probe.touch(exist_ok=False)
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise CacheError(f"{what} {path} cannot be written: {error.strerror or error}") from None


def _same(path: Path, name: Path) -> bool:
    try:
        # Two targets of one command need not exist.
        return path.samefile(name) if path.exists() else path.resolve() == name.resolve()
    except (OSError, ValueError):  # nothing is there, or the name is not a path, as a long URL
        return False


def _require_ours(path: Path, what: str) -> None:
    """Refuse to replace what featx did not write; a cache has its own check for that."""
    try:
        ours = not path.is_file() or not path.stat().st_size or is_ours(path, what)
    except OSError as error:
        raise CacheError(f"{what} {path} cannot be read: {error.strerror or error}") from None
    if not ours:
        raise CacheError(
            f"{what} {path} would replace a file that featx did not write; name another file, or "
            "pass --force to replace it"
        )


def require_png(path: str | os.PathLike[str], *read: object, force: bool = False) -> Path:
    """Refuse a plot that is no PNG or cannot be written, before any work is done for it."""
    place = Path(path)
    if place.suffix.lower() != ".png":
        raise FitError(f"plot {place}: the suffix is {place.suffix!r}; expected .png")
    require_writable(place, "plot", *read, force=force)
    return place


def png_of(figure: Figure, dpi: int) -> bytes:
    """Draw a figure of matplotlib as PNG, marked as featx's own."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        # A name may have letters that the font has not: a box stands for each.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(file, format="png", dpi=dpi, metadata={"Software": GENERATOR})
    return file.getvalue()


def plain_text(text: str) -> str:
    """Give text that matplotlib draws letter for letter: a dollar sign begins no mathematics."""
    return text.replace("$", r"\$")
