"""Sums over the training rows that a model keeps, so that it can take in more rows."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from featx.errors import ModelError
from featx.model.archive import SUMS
from featx.model.model import Model
from featx.streaming.moments import Moments
from featx.typing import RowValues

MOST_BYTES = 60 << 20
"""Of all of it: a member of a model file may have 64 MB."""


@dataclass(frozen=True)
class RowSums:
    """Sums over the training rows that a model keeps, so that it can take in more rows.

    Parameters
    ----------
    shift, moments
        Sums over all rows (`featx.streaming.moments`), one target for each class.
    y
        Of every row, in the order of `Model.seen`: code of the class, or the number.
    at
        Which of these rows are kept: all, or of very many an even part of each class.
    X
        Their features, float32, shape (len(at), n_features): held-out rows for probabilities.
    groups
        Digest of the group of each kept row, uint64; empty where there were no groups.
    weights
        Weight of each kept row; empty where rows had none.
    """

    shift: NDArray[np.float64]
    moments: Moments
    y: RowValues
    at: NDArray[np.int64]
    X: NDArray[np.float32]
    groups: NDArray[np.uint64]
    weights: NDArray[np.float64]

    def members(self) -> dict[str, bytes]:
        """Give the member of a model file; nothing where it would be too large."""
        values = {name: getattr(self, name) for name in _OWN}
        values |= {f.name: getattr(self.moments, f.name) for f in fields(Moments)}
        values["second"] = self.moments.second[np.triu_indices(len(self.shift))]
        if sum(np.asarray(value).nbytes for value in values.values()) > MOST_BYTES:
            return {}
        file = io.BytesIO()
        np.savez(file, **values)
        return {SUMS: file.getvalue()}


_OWN = ("shift", "y", "at", "X", "groups", "weights")


def read_sums(model: Model) -> RowSums | None:
    """Read what `keep_sums` wrote; None where the model has none.

    Raises
    ------
    ModelError
        If it does not fit the model.
    """
    if SUMS not in model.members:
        return None
    try:
        with np.load(io.BytesIO(model.members[SUMS]), allow_pickle=False) as file:
            values = {name: file[name] for name in file.files}
        width, n_kept = int(model.estimator.n_features_in_), len(values["at"])
        second = np.zeros((width, width))
        second[np.triu_indices(width)] = values.pop("second")
        values["second"] = second + np.triu(second, 1).T
        own = {name: values.pop(name) for name in _OWN}
        moments = Moments(**{k: v if v.ndim else v.item() for k, v in values.items()})
        k = len(model.classes) or 1
        sound = (
            own["X"].shape == (n_kept, width)
            and moments.cross.shape == (width, k)
            and own["shift"].shape == (width,)
            and len(own["y"]) == len(model.seen) == moments.n
            and all(len(own[name]) in (0, n_kept) for name in ("groups", "weights"))
            and (n_kept == 0 or 0 <= own["at"].min() <= own["at"].max() < moments.n)
        )
        if not sound:
            raise ValueError("numbers of rows or features differ")
    except (KeyError, ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"{model.name} is damaged: {SUMS} does not fit ({error})") from None
    return RowSums(moments=moments, **own)
