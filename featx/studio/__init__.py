"""The data as a page: look, fix labels, label next, refit; needs the extra ``serve``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from featx.arguments import typed
from featx.errors import MissingExtraError

_NEEDED = ("fastapi", "uvicorn", "prometheus_client")


@typed
def studio(
    cache: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | None = None,
    head: str = "logreg",
    tap: str | None = None,
    groups: str | None = None,
    folds: int = 5,
    seed: int = 0,
    port: int = 8001,
    ready: Callable[..., None] = lambda address, board: None,
) -> None:
    """Show the pictures of a cache as a page on this machine, until the process is interrupted.

    Labels that are given there are kept in a table of ``id,label``, which ``featx extract
    --labels`` puts into the cache; the cache itself stays as it is. The page shows which labels are
    likely wrong, and which pictures to label next, once a head was fitted on the labels as they
    are. Only who has the address can use it: it holds a secret.

    Parameters
    ----------
    cache
        A file that `featx.extract` wrote, with one class a row, or none.
    labels
        The table; ``NAME.labels.csv`` beside the cache ``NAME.h5`` when None. What it holds already
        is taken over, so that work goes on where it was.
    head, tap, groups, folds, seed
        As in `featx.audit`.
    port
        Where to listen, on this machine only; 0 takes one that is free.
    ready
        Called with the address and the board (`featx.studio.board.Board`) when requests are
        answered.

    Raises
    ------
    MissingExtraError
        If the packages of the extra are not installed.
    CacheLockedError
        If another studio writes the same table.
    FeatxError
        If the port is taken, or the cache is not of pictures with one class each.

    Examples
    --------
    >>> featx.studio("photos.h5")  # doctest: +SKIP
    """
    from importlib.util import find_spec

    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        line = f"the studio needs {', '.join(missing)}: pip install 'featx[serve]'"
        raise MissingExtraError(line)
    from featx.fitting.options import FitOptions
    from featx.studio.app import run

    options = FitOptions(tap=tap, groups=groups, folds=folds, seed=seed, nested=True)
    run(Path(cache), None if labels is None else Path(labels), head, options, port, ready)
