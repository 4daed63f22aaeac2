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
ORDERS: tuple[Order, ...] = ("suspect", "next", "all", "changed")

_NEIGHBOURS = 12


class Board:
    """The rows of a cache, the labels that somebody gave them, and the last refit.

    Every change is in the file of labels before it is answered; the cache stays as it is.

    Parameters
    ----------
    cache
        Opened; its rows have one class each, or none.
    file
        Table of ``id,label`` that keeps what was said, for ``featx extract --labels``. What it
        holds already is taken over.
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
        self.said: dict[int, str | None] = self._read()
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
        unknown = [name for name in found.labels if name not in set(self.ids)]
        if unknown:
            raise FeatxError(
                f"labels {self.file} names {len(unknown)} ids that {self.cache.path} does not "
                f"have, first {unknown[0]!r}; name another file with --labels"
            )
        rows = self.cache.rows(list(found.labels)).tolist()
        return dict(zip(rows, found.labels.values(), strict=True))

    def label(self, row: int) -> str | None:
        """Give the label of a row: what was said last, else the cache's."""
        return self.said[row] if row in self.said else self.given[row]

    @property
    def labels(self) -> list[str | None]:
        """Label of each row."""
        with self._lock:
            found = list(self.given)
            for row, label in self.said.items():
                found[row] = label
            return found

    @property
    def changed(self) -> list[int]:
        """Rows whose label is another than the cache's, the last first."""
        with self._lock:
            return [row for row, label in reversed(self.said.items()) if label != self.given[row]]

    def say(self, rows: Sequence[int], labels: Sequence[str | None]) -> None:
        """Give rows their labels, None for no label; it is on disk when this returns.

        Raises
        ------
        FeatxError
            If there is no such row, or what is said is not one class.
        OSError
            If the file cannot be written; nothing is changed then.
        """
        for row, label in zip(rows, labels, strict=True):
            if not 0 <= row < len(self):
                raise FeatxError(f"there is no row {row}; the cache has {len(self)}")
            if label not in self._classes:  # what the cache has stays as it is written
                _require_class(label)
        with self._lock:
            before = dict(self.said)
            for row, label in zip(rows, labels, strict=True):
                self.said.pop(row, None)  # so that the last is the last
                self.said[row] = label
            try:
                self._write()
            except OSError:
                self.said = before
                raise

    def take_back(self, rows: Sequence[int]) -> None:
        """Forget what was said of some rows: they have the cache's labels again."""
        with self._lock:
            before = dict(self.said)
            for row in rows:
                self.said.pop(row, None)
            try:
                self._write()
            except OSError:
                self.said = before
                raise

    def _write(self) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("id", "label"))
        for row in sorted(self.said):
            writer.writerow((self.ids[row], self.said[row] or ""))
        write_bytes(self.file, text.getvalue().encode())

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
            log.exception("the refit failed")
            problem = "the refit failed; the log of featx studio says why"
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
            ``suspect``: labels that are likely wrong and of which nobody said anything; ``next``:
            rows without a label, those that tell most first; ``changed``; or ``all``.
        label
            Only rows of this label; those without one for an empty text.
        find
            Only rows whose id holds this text, whatever its capitals.
        """
        with self._lock:
            if order == "suspect":
                fit = self.refit
                found = (
                    [] if fit is None else [r for r in fit.suspects.tolist() if r not in self.said]
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
            "said": row in self.said,
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
        raise FeatxError(f"{label!r} is no class: a class is printable text without outer spaces")
    if SEPARATOR in label:
        raise FeatxError(f"{label!r} has a {SEPARATOR!r}, which parts several labels")
