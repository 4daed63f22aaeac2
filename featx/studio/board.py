"""The rows of a cache as a person works on them: labels that change, and what to look at."""

from __future__ import annotations

import csv
import functools
import io
import logging
import shlex
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from featx.auditing import nearest_rows
from featx.cache.cache import Cache
from featx.errors import FeatxError
from featx.files import write_bytes
from featx.fitting.columns import require_vectors
from featx.fitting.looks import small_picture
from featx.fitting.options import FitOptions
from featx.labels import SEPARATOR
from featx.model.references import image_reader
from featx.sources.fields import read_corrections
from featx.studio.refit import Refit, rank_next, refit_labels
from featx.typing import JsonObject

log = logging.getLogger("featx")

Order = Literal["all", "suspect", "next", "changed"]
_NEIGHBOURS = 12


class Board:
    """The rows of a cache, the labels that a person gave them, and the last refit.

    Every edit is on disk before it is answered. The cache stays as it is.

    Parameters
    ----------
    cache
        Opened; its rows have one class each, or none.
    file
        Table of ``id,label`` that keeps the edits, for ``featx extract --labels``. Labels that it
        holds already are edits too.
    head, options
        As in `featx.audit`.

    Raises
    ------
    FeatxError
        If the cache has no pictures, or its labels are numbers or several a row.
    SourceError
        If the file is not such a table.
    """

    def __init__(self, cache: Cache, file: Path, head: str, options: FitOptions) -> None:
        self.cache, self.file, self.head, self.options = cache, file, head, options
        self.tap = options.tap or cache.taps[0]
        self.given = _single_labels(cache)
        for tap in self.tap.split(","):
            require_vectors(cache, tap)
        self._classes = frozenset(self.given)
        self.ids: Sequence[str] = cache.ids
        self.edits: dict[int, str | None] = self._read()
        self.refit: Refit | None = None
        self.fitting = False
        self.problem = ""
        self.history: list[JsonObject] = []
        self._lock = threading.RLock()
        self._next: list[int] | None = None
        self._reader = functools.cache(lambda: image_reader(cache))
        self.picture = functools.lru_cache(maxsize=1024)(self._picture)

    def __len__(self) -> int:
        return len(self.given)

    def _read(self) -> dict[int, str | None]:
        if not self.file.exists():
            return {}
        found = read_corrections(self.file)
        if others := [name for name in found.columns if name not in ("id", "label")]:
            raise FeatxError(
                f"labels {self.file} is written anew with every change, and the columns "
                f"{', '.join(others)} would be lost; name another file with --labels"
            )
        known = set(self.ids)
        unknown = [name for name in found.labels if name not in known]
        if unknown:
            raise FeatxError(
                f"labels {self.file} names {len(unknown)} ids that {self.cache.path} does not "
                f"have, first {unknown[0]!r}; name another file with --labels"
            )
        rows = self.cache.rows(list(found.labels)).tolist()
        return dict(zip(rows, found.labels.values(), strict=True))

    def label(self, row: int) -> str | None:
        """Give the label of a row: that of its edit, else that of the cache."""
        return self.edits[row] if row in self.edits else self.given[row]

    @property
    def labels(self) -> list[str | None]:
        """Label of each row."""
        with self._lock:
            found = list(self.given)
            for row, label in self.edits.items():
                found[row] = label
            return found

    @property
    def changed(self) -> list[int]:
        """Rows whose label differs from that of the cache, the latest edit first."""
        with self._lock:
            return [row for row, label in reversed(self.edits.items()) if label != self.given[row]]

    def set_label(self, rows: Sequence[int], label: str | None) -> None:
        """Give rows a label, None for no label; the edit is on disk when this returns.

        Raises
        ------
        FeatxError
            If a row does not exist, or the label is not the name of one class.
        OSError
            If the file cannot be written; the edits are then as before.
        """
        for row in rows:
            if not 0 <= row < len(self):
                raise FeatxError(f"row {row} does not exist: rows are 0 to {len(self) - 1}")
        if label not in self._classes:  # classes of the cache stay letter for letter
            _require_class(label)
        with self._lock:
            self._keep({**self._without(rows), **dict.fromkeys(rows, label)})  # the latest is last

    def reset(self, rows: Sequence[int]) -> None:
        """Drop the edits of some rows: they have the labels of the cache again.

        Raises
        ------
        OSError
            If the file cannot be written; the edits are then as before.
        """
        with self._lock:
            self._keep(self._without(rows))

    def _without(self, rows: Sequence[int]) -> dict[int, str | None]:
        dropped = set(rows)
        return {row: label for row, label in self.edits.items() if row not in dropped}

    def _keep(self, edits: dict[int, str | None]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("id", "label"))
        writer.writerows((self.ids[row], edits[row] or "") for row in sorted(edits))
        write_bytes(self.file, text.getvalue().encode())
        self.edits = edits

    def start_refit(self) -> None:
        """Fit in a thread of its own; `refit`, or `problem`, is there when `fitting` ends."""
        with self._lock:
            if self.fitting:
                return
            self.fitting, self.problem = True, ""
        threading.Thread(target=self._refit, daemon=True).start()

    def _refit(self) -> None:
        problem = ""
        try:
            self.fit()
        except FeatxError as error:
            problem = " ".join(str(error).split())
        except Exception:
            log.exception("the refit failed; every label is kept")
            problem = "the refit failed, and every label is kept; the log says why"
        with self._lock:
            self.fitting, self.problem = False, problem

    def fit(self) -> Refit:
        """Fit the head on the labels as they are; see `featx.studio.refit.refit_labels`."""
        labels = self.labels
        found = refit_labels(self.cache, labels, self.head, self.options)
        n = sum(label is not None for label in labels)
        with self._lock:
            self.refit, self._next = found, None
            self.history.append({"labelled": n, "accuracy": found.metrics["accuracy"]})
        return found

    def rows(self, order: Order, label: str | None = None, find: str = "") -> list[int]:
        """Give rows in an order.

        Parameters
        ----------
        order
            ``suspect``: rows without an edit whose label is likely wrong; ``next``: rows without a
            label, those that tell most first; ``changed``; or ``all``.
        label
            Only rows of this label; those without one for an empty text.
        find
            Only rows whose id holds this text, whatever its capitals.
        """
        with self._lock:
            if order == "suspect":
                fit = self.refit
                found = (
                    [] if fit is None else [r for r in fit.suspects.tolist() if r not in self.edits]
                )
            elif order == "next":
                found = [row for row in self._next_rows() if self.label(row) is None]
            else:
                found = self.changed if order == "changed" else list(range(len(self)))
            if label is not None:
                found = [row for row in found if (self.label(row) or "") == label]
        if find:
            wanted = find.casefold()
            found = [row for row in found if wanted in self.ids[row].casefold()]
        return found

    def _next_rows(self) -> list[int]:
        if self._next is None:
            blank = [row for row, label in enumerate(self.labels) if label is None]
            X = self.cache.tap(self.tap)
            self._next = rank_next(X, blank, self.refit, self.options.seed)
        return self._next

    def neighbours(self, row: int) -> list[int]:
        """Give the rows whose features are nearest to those of a row."""
        X = np.asarray(self.cache.tap(self.tap)[[row]], np.float32)
        k = min(_NEIGHBOURS, len(self) - 1)
        if k < 1 or not np.isfinite(X).all():
            return []
        found, _ = nearest_rows(self.cache.tap(self.tap), X, k, exclude=np.array([row]))
        return [int(other) for other in found[0]]

    def _picture(self, row: int, side: int) -> bytes | None:
        return small_picture(self.cache, row, self._reader(), side)

    def describe(self, row: int) -> JsonObject:
        """Give what is known of a row, JSON-ready."""
        fit, label = self.refit, self.label(row)
        found: JsonObject = {
            "row": row,
            "id": self.ids[row],
            "label": label,
            "given": self.given[row],
            "edited": row in self.edits,
        }
        if fit is not None:
            quality = float(fit.quality[row])
            found |= {
                "predicted": fit.predicted[row],
                "confidence": round(float(fit.confidence[row]), 4),
                "quality": round(quality, 4) if quality == quality else None,
                "suggested": fit.suggested.get(row),
            }
        return found

    def summary(self) -> JsonObject:
        """Give what stands above the rows, JSON-ready."""
        labels, fit = self.labels, self.refit
        counts = Counter(label for label in labels if label is not None)
        since = 0
        if fit is not None:
            since = sum(a != b for a, b in zip(labels, fit.labels, strict=True))
        return {
            "cache": str(self.cache.path),
            "file": str(self.file),
            "rows": len(self),
            "classes": [{"name": name, "count": counts[name]} for name in sorted(counts)],
            "unlabelled": len(labels) - sum(counts.values()),
            "changed": len(self.changed),
            "command": self.command,
            "head": self.head,
            "fitting": self.fitting,
            "problem": self.problem,
            "history": self.history,
            "fit": None
            if fit is None
            else {
                "accuracy": fit.metrics["accuracy"],
                "baseline": fit.baseline["accuracy"],
                "labelled": sum(label is not None for label in fit.labels),
                "suspects": len(self.rows("suspect")),
                "since": since,
                "seconds": round(fit.seconds, 1),
                "warnings": fit.warnings,
            },
        }

    @property
    def command(self) -> str:
        """The command that puts the labels into the cache."""
        ran = str(self.cache.provenance.get("command") or "").partition(" extract ")[2]
        source = str(self.cache.provenance.get("source") or "SOURCE")
        plain = " " not in f"{source}{self.cache.path}"  # quotes of the shell are not recorded
        if not ran or not plain or "--labels" in ran:
            ran = shlex.join([source, str(self.cache.path)])
        return f"featx extract {ran} {shlex.join(['--labels', str(self.file)])}"


def _single_labels(cache: Cache) -> list[str | None]:
    labels = cache.labels
    if cache.spec.is_external:
        raise FeatxError(
            f"{cache.path} holds vectors that something else computed, and no pictures to look at"
        )
    if labels is None:
        return [None] * len(cache)
    if isinstance(labels, np.ndarray) or (cache.y is not None and cache.y.ndim == 2):
        kind = "numbers" if isinstance(labels, np.ndarray) else "several names a row"
        raise FeatxError(
            f"labels of {cache.path} are {kind}; featx studio is for one class a picture: correct "
            "them in the table itself"
        )
    return list(labels)


def _require_class(label: str | None) -> None:
    if label is None:
        return
    if not label or label != label.strip() or not label.isprintable():
        raise FeatxError(
            f"{label!r} cannot be a class: use printable text without spaces at its ends"
        )
    if SEPARATOR in label:
        raise FeatxError(f"{label!r} holds {SEPARATOR!r}, which separates several labels")
