"""The files of a source that are passed over, counted by extension."""

from __future__ import annotations

import os
from collections import Counter

from featx.images import missing_extra

_MOST_KINDS = 100  # a folder of x.0001, x.0002, ... has as many extensions as files
HIDDEN, OTHER = "hidden", "other"


class PassedOver(Counter[str]):
    """How many files were passed over, by lower-case extension with its dot.

    ``hidden`` stands for names that begin with a dot, ``other`` for those without an extension.

    Examples
    --------
    >>> passed = PassedOver()
    >>> for name in ("a.HEIC", "b/c.heic", "README"):
    ...     passed.take(name)
    >>> dict(passed), passed.total()
    ({'.heic': 2, 'other': 1}, 3)
    """

    def take(self, name: str, *, hidden: bool = False) -> None:
        """Count a file by its name."""
        kind = HIDDEN if hidden else os.path.splitext(name)[1].lower()  # noqa: PTH122 - fast
        self[kind if kind and (kind in self or len(self) < _MOST_KINDS) else OTHER] += 1


def extra_notice(passed: dict[str, int]) -> str | None:
    """Say which extra would read some of the files that were passed over; None if none would.

    Examples
    --------
    >>> extra_notice({".txt": 3}) is None
    True
    """
    found = {kind: extra for kind in passed if (extra := missing_extra(kind))}
    if not found:
        return None
    counts = ", ".join(f"{kind} {passed[kind]}" for kind in sorted(found))
    extras = ",".join(sorted(set(found.values())))
    return f"files that featx reads with an extra are passed over ({counts}): pip install " + (
        f"'featx[{extras}]'"
    )
