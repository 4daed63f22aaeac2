"""Whether labels allow a model at all, said before a picture is read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from featx.errors import FitError
from featx.labels import Labels
from featx.manifest import Manifest, Source, load_manifest

LEAST = 3
"""Images of a class: one to learn from, one to choose by, one to measure with."""


def require_trainable(source: Source, *, drop_rare: bool, missing: Sequence[str]) -> None:
    """Refuse a local folder or table whose labels cannot make a classifier.

    Other sources are listed once, by the extraction; their labels are checked after it.

    Parameters
    ----------
    drop_rare
        Whether classes of too few images are left out later.
    missing
        Texts that mean an empty field of a table.

    Raises
    ------
    FitError
        If there are no labels, one class, or too few images of a class; it says what is possible.
    """
    if not isinstance(source, str | os.PathLike):
        raise FitError(
            "a list of images has no labels, so there is nothing to learn from; pass a folder of "
            "class folders, or a table with the columns path and label"
        )
    path = Path(source)
    if path.is_dir() or path.suffix.lower() == ".csv":
        check_labels(load_manifest(source, missing=tuple(missing)), drop_rare=drop_rare)


def check_labels(manifest: Manifest, *, drop_rare: bool = False) -> None:
    """Check the labels of a list of images."""
    names = _names(manifest.labels)
    if names is None:
        return
    counts, where = Counter(names), manifest.name
    if not counts:
        raise FitError(
            f"{where} has {len(manifest)} images and no labels, so there is nothing to learn from. "
            f"Put the images of each class into a folder of its own ({where}/CLASS/...), or name "
            "them in a table with the columns path and label. Features need no labels: `featx "
            f"extract {where} features.h5`"
        )
    if len(counts) == 1:
        only, n = next(iter(counts.items()))
        raise FitError(
            f"{where}: all {n} labelled images are of class {only!r}, and a classifier tells "
            "classes apart; add a folder with images of something else. Features need no second "
            f"class: `featx extract {where} features.h5`"
        )
    few = {name: n for name, n in counts.items() if n < LEAST}
    large = len(counts) - len(few)
    if few and not (drop_rare and large >= 2):
        named = ", ".join(f"{name!r} ({n})" for name, n in sorted(few.items())[:5])
        more = f" and {len(few) - 5} more" if len(few) > 5 else ""
        raise FitError(
            f"{where}: fewer than {LEAST} images in class {named}{more}. A class needs {LEAST}: "
            "one to learn from, one to choose by and one to measure with; from 10 on the figures "
            "say something. Add images, or "
            + ("pass --rare drop to leave such classes out" if large >= 2 else "merge classes")
        )


def _names(labels: Labels | None) -> list[str] | None:
    """List the labels that are there; None where they are no single names."""
    if labels is None:
        return []
    found = []
    for value in labels:
        if isinstance(value, str):
            found.append(value)
        elif value is not None:
            return None
    return [value for value in found if value]
