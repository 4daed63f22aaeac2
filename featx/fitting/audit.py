"""The audit of a cache: conflicts, copies, likely label errors, outliers, an error rate."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.arguments import typed
from featx.auditing import (
    LabelIssues,
    find_outliers,
    label_issues,
    nearest_rows,
    unit_rows,
)
from featx.cache.cache import Cache, opened
from featx.errors import FitError
from featx.fitting.columns import require_vectors
from featx.fitting.findings import (
    Audit,
    Finding,
    conflict_findings,
    copy_findings,
    finding,
)
from featx.fitting.judging import judge_labels
from featx.fitting.looks import Near, PictureLooks, copies_of, likely_copies, look_at
from featx.fitting.options import FitOptions
from featx.fitting.samples import require_seed
from featx.labels import SEPARATOR, conflicting_rows, look_like_measurements
from featx.model import Model
from featx.selection.checks import FEW_ROWS, Warn, warn
from featx.targets import require_writable

_NEIGHBOURS = 8
MOST_PICTURES = 20_000
"""Pictures that `featx train` reads again."""
FEW_PICTURES, FEW_ROWS_COMPARED = 400, 20_000
"""Pictures that `featx.fit` reads again, and rows up to which it compares features."""
_MOST_ROWS = 200_000
"""Rows up to which all pairs are compared."""


@typed
def audit(
    cache: str | os.PathLike[str] | Cache,
    *,
    head: str = "logreg",
    tap: str | None = None,
    label: str | None = None,
    groups: str | None = None,
    folds: int = 5,
    pictures: bool = True,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    page: str | os.PathLike[str] | None = None,
    review: int | None = None,
    review_out: str | os.PathLike[str] | None = None,
    reviewed: str | os.PathLike[str] | None = None,
    apply: str | os.PathLike[str] | None = None,
    force: bool = False,
    excel_safe: bool = False,
    progress: bool = True,
) -> Audit:
    """Name what is wrong with the data of a cache, and estimate how many labels are wrong.

    Conflicts are rows with the same bytes and different labels. Near duplicates are pairs whose
    features are close and whose pixels are alike. Likely label errors come from confident learning
    on predictions for rows that the head was not fitted on. Outliers are far from all other rows,
    or have a fault of their pixels.

    Parameters
    ----------
    cache
        A file that `featx.extract` or `featx.write_cache` wrote, or one that is open.
    head
        Whose held-out predictions are compared with the labels.
    tap, label, groups
        As in `featx.fit`.
    folds
        Outer folds, and folds of each search.
    pictures
        Whether pictures are read again: near duplicates are then confirmed by pixels, and faults
        of pixels are found. Without them only rows with nearly the same features count.
    seed
        Random seed of folds and samples.
    out
        CSV or Parquet file for the findings.
    page
        HTML contact sheet of the findings.
    review, review_out
        Write so many randomly drawn rows, half of them flagged, to this CSV file, for a person to
        fill in the column ``answer``: ``ok``, ``wrong``, or the right label.
    reviewed
        The same file with answers; the estimate of the error rate is made of it.
    apply
        Write a CSV of corrected labels (``id,label``) for ``featx extract --labels``: with
        `reviewed` what a person said, else the suggestions, which nobody has looked at.
    force
        Replace files that featx did not write.
    excel_safe
        As in `featx.model.Model.predict`, for `out`.
    progress
        Whether to show progress on stderr.

    Raises
    ------
    FitError
        If the rows cannot be audited: the message says what is missing.
    CacheError
        If the cache cannot be read, or a file cannot be written.

    Examples
    --------
    >>> found = featx.audit("photos.h5", out="audit.csv")  # doctest: +SKIP
    >>> found.to_frame().query("kind == 'label'").head()  # doctest: +SKIP
    """
    from featx.fitting import findings as reviews

    require_seed(seed)
    options = FitOptions(tap=tap, label=label, groups=groups, folds=folds, seed=seed, nested=True)
    for place, what in (
        (out, "audit"),
        (page, "report"),
        (review_out, "review"),
        (apply, "labels"),
    ):
        if place is not None:
            require_writable(Path(place), what, getattr(cache, "path", cache), force=force)
    if (review is None) != (review_out is None):
        raise FitError("a review needs a number of rows and a file: review=100, review_out=FILE")
    with opened(cache) as file:
        most = len(file) if pictures else 0
        auditor = _Auditor(file, head, options, pictures=most, progress=progress)
        found = auditor.run(None if out is None else os.fspath(out))
        if reviewed is not None:
            found = reviews.with_rate(found, Path(reviewed), file, auditor.labels, seed)
        if review is not None and review_out is not None:
            reviews.write_sample(Path(review_out), file, auditor.labels, found, review, seed)
        if apply is not None:
            reviews.write_labels(Path(apply), found, reviewed)
        if out is not None:
            reviews.write_table(Path(out), found, safe=excel_safe)
        if page is not None:
            from featx.fitting.sheets import audit_sheet

            audit_sheet(Path(page), file, found)
    return found


def audit_fitted(
    cache: Cache,
    model: Model,
    *,
    pictures: int = FEW_PICTURES,
    labels: bool = True,
    progress: bool = True,
) -> Audit:
    """Audit the cache of a model by what its fit said of rows that its heads had not seen.

    Parameters
    ----------
    cache
        That the model was fitted on.
    model
        Whose test rows are judged: all rows where it was measured by nested folds.
    pictures
        How many are read at most; of more, those whose features are closest. With `FEW_PICTURES`
        rows are compared up to `FEW_ROWS_COMPARED`, so that it takes seconds.
    labels
        Whether labels are judged, too.
    progress
        Whether to show progress on stderr.
    """
    options = FitOptions(tap=model.tap, label=model.meta.get("label"))
    auditor = _Auditor(cache, "", options, pictures=pictures, progress=progress)
    auditor.tested, auditor.judged = model, labels
    if pictures <= FEW_PICTURES:
        auditor.most_rows = FEW_ROWS_COMPARED
    return auditor.run(None)


class _Auditor:
    """One audit: its rows, and what was seen of them."""

    tested: Model | None = None
    judged = True
    most_rows = _MOST_ROWS

    def __init__(
        self, cache: Cache, head: str, options: FitOptions, *, pictures: int, progress: bool
    ) -> None:
        self.cache, self.head, self.options = cache, head, options
        self.pictures, self.progress = pictures, progress
        self.warnings: list[Warn] = []
        self.quality: dict[str, float] = {}
        self.labels: list[Any] = self._labels()

    def _labels(self) -> list[Any]:
        """Label of each row as text or number, None where missing."""
        if self.options.label is not None:
            if self.options.label not in self.cache.columns:
                raise FitError(
                    f"--label {self.options.label!r}: {self.cache.path} has no such column "
                    f"(it has {', '.join(self.cache.columns) or 'none'})"
                )
            return [v or None for v in map(str, self.cache.columns[self.options.label])]
        known = self.cache.labels
        return [None] * len(self.cache) if known is None else list(known)

    def run(self, out: str | None) -> Audit:
        """Look for everything."""
        if not len(self.cache):
            raise FitError(f"{self.cache.path} holds no rows; there is nothing to audit")
        names = np.array(["" if v is None else str(v) for v in self.labels], dtype=object)
        conflicts = conflicting_rows(self.cache.content_digests, names)
        findings = conflict_findings(self.cache.ids, self.labels, conflicts)
        near = self._neighbours()
        seen = self._look(near)
        copies = copies_of(self.cache.content_digests, near, seen)
        findings += copy_findings(self.cache.ids, self.labels, copies)
        suspected = self._suspected() if self.judged else []
        findings += suspected
        findings += self._outliers(near, seen)
        findings += [
            finding(name, "failed", other=reason) for name, reason in self.cache.failed.items()
        ]
        self._small_classes()
        flagged = {f["id"] for f in suspected}
        flagged |= {self.cache.ids[row] for group in conflicts for row in group}
        return Audit(
            rows=len(self.cache),
            findings=findings,
            flagged=tuple(sorted(flagged)),
            quality=self.quality,
            warnings=self.warnings,
            out=out,
        )

    def _neighbours(self) -> Near | None:
        """Nearest rows of other content, for each row."""
        if len(self.cache) < 2:
            return None
        if len(self.cache) > self.most_rows:
            text = f"{len(self.cache)} rows: copies and outliers are looked for up to "
            text += f"{self.most_rows}"
            self.warnings.append(warn("too-many-rows", text))
            return None
        tap = self.options.tap or self.cache.taps[0]
        require_vectors(self.cache, tap)
        X = unit_rows(np.asarray(self.cache.tap(tap)))
        return nearest_rows(X, X, _NEIGHBOURS, exclude=np.arange(len(X)), unit=True)

    def _look(self, near: Near | None) -> PictureLooks | None:
        """Read the pictures: all, or those whose features are closest where there are too many."""
        if not self.pictures or self.cache.spec.is_external:
            return None
        if len(self.cache) <= self.pictures:
            return look_at(self.cache, progress=self.progress)
        rows = likely_copies(self.cache, near, self.pictures)
        text = (
            f"copies were looked for among the {len(rows)} pictures with the closest features; "
            f"`featx audit {self.cache.path}` reads all {len(self.cache)}"
        )
        self.warnings.append(warn("pictures-not-read", text))
        return look_at(self.cache, rows, progress=self.progress)

    def _suspected(self) -> list[Finding]:
        """Likely label errors, the most suspect first."""
        known = [label for label in self.labels if label is not None]
        if len(set(known)) < 2:
            what = "no labels" if not known else f"one class, {known[0]!r}"
            text = f"label errors cannot be looked for: {self.cache.path} has {what}"
            self.warnings.append(warn("no-labels", text))
            return []
        if self.tested is None:
            judged = judge_labels(
                self.cache, self.head, self.options, self.labels, progress=self.progress
            )
            self.warnings += judged.warnings
            rows, issues = judged.samples.rows, judged.issues
        else:
            rows, issues = self._measured(self.tested)
        if issues is None:
            return []
        ids = [self.cache.ids[int(row)] for row in rows]
        self.quality = dict(zip(ids, issues.quality.tolist(), strict=True))
        return [
            finding(
                ids[k],
                "label",
                score=float(issues.quality[k]),
                label=self.labels[int(rows[k])],
                suggested=issues.suggested[k],
            )
            for k in issues.ranked
        ]

    def _measured(self, model: Model) -> tuple[NDArray[np.int64], LabelIssues | None]:
        """Judge the labels of the rows that measured a model."""
        tested = model.tested
        rows = self.cache.rows([str(name) for name in tested["ids"]])
        regression = model.task == "regression"
        given = tested["predicted"] if regression else tested.get("probabilities")
        if given is None or (not regression and len(model.classes) < 2):
            return rows, None
        y = np.array(tested["y"])
        return rows, label_issues(y, np.array(given), model.classes, task=model.task)

    def _outliers(self, near: Near | None, seen: PictureLooks | None) -> list[Finding]:
        found = []
        if near is not None and len(self.cache) >= 20:
            rows, scores = find_outliers(near[1][:, :5])
            found = [self._outlier(int(row), float(scores[row]), "far from all") for row in rows]
        whole = seen is not None and len(self.cache) <= self.pictures
        for row, fault in seen.faults() if seen is not None and whole else ():
            found.append(self._outlier(row, None, fault))
        return found

    def _outlier(self, row: int, score: float | None, why: str) -> Finding:
        return finding(
            self.cache.ids[row], "outlier", score=score, label=self.labels[row], other=why
        )

    def _small_classes(self) -> None:
        known = [str(label) for label in self.labels if label is not None]
        if look_like_measurements(known):
            return
        several = self.cache.y is not None and self.cache.y.ndim == 2
        counts = Counter(
            name for text in known for name in (text.split(SEPARATOR) if several else [text])
        )
        small = [f"{name} ({n})" for name, n in counts.items() if n < FEW_ROWS]
        if small and self.cache.classes is not None:
            shown = ", ".join(small[:5]) + (f" and {len(small) - 5} more" if len(small) > 5 else "")
            text = f"fewer than {FEW_ROWS} rows in class {shown}"
            self.warnings.append(warn("few-samples", text))
