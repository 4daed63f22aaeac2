"""The same bytes under different labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def conflicting_labels(digests: NDArray[Any], labels: Sequence[Any]) -> list[NDArray[np.intp]]:
    """Group the rows whose content is the same and whose labels are not.

    Parameters
    ----------
    digests
        Content digest of each row, shape (n_samples,); an empty one says that it is not known.
    labels
        Label of each row; None where missing, which agrees with every other.

    Returns
    -------
    groups : for each content with several labels, its labelled rows in ascending order

    Examples
    --------
    >>> found = conflicting_labels(np.array([b"x", b"y", b"x"]), ["cat", "cat", "dog"])
    >>> [rows.tolist() for rows in found]
    [[0, 2]]
    """
    known = np.array([label is not None for label in labels], bool)
    known &= np.asarray(digests) != np.array(b"", np.asarray(digests).dtype)
    rows = np.flatnonzero(known)
    if not len(rows):
        return []
    _, codes, counts = np.unique(digests[rows], return_inverse=True, return_counts=True)
    order = np.argsort(codes, kind="stable")
    groups = np.split(rows[order], np.cumsum(counts)[:-1])
    several = [group for group in groups if len({labels[row] for row in group}) > 1]
    return sorted(several, key=lambda group: int(group[0]))
