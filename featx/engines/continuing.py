"""A check before rows are added to rows that exist: this device has to compute those again.

A precision that is taken from a cache says how its rows were computed, not that another device, a
compiled network or another version of a library computes them alike. A few rows tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from featx.cache.keys import keys_of
from featx.cache.known import KnownRows
from featx.engines.job import Outcome
from featx.engines.threads import spread
from featx.errors import ExtractError, ImageError
from featx.images import decode, draw_pixels
from featx.images.pages import digest_bytes
from featx.run.prepared import Run
from featx.runtime import Runner
from featx.runtime.checking import MIN_COSINE, lowest_cosine, worst_row

ROWS = 4  # rows that are computed again
_LOOKED_AT = 32  # items whose files are read where it is not known which of them have rows
_NEAR = 1e-3  # relative error of a row in fp32, which may have been stored as float16


def proof_items(outcome: Outcome) -> tuple[int, ...]:
    """Choose items that have rows already, from all over the source; the fewer there are, all."""
    with_rows = np.flatnonzero(outcome.content != b"")
    return tuple(with_rows[spread(len(with_rows), ROWS)].tolist()) if len(with_rows) else ()


def require_alike(run: Run, known: KnownRows, runner: Runner, items: Sequence[int]) -> None:
    """Compute a few rows that exist again, and refuse to add to rows that differ.

    Parameters
    ----------
    runner
        Prepared, as it will compute the new rows.
    items
        From `proof_items`; where it found none, some items are looked at.

    Raises
    ------
    ExtractError
        With the image, the tolerance and what to do.
    """
    if not len(known):
        return
    candidates = items or spread(len(run.manifest), _LOOKED_AT).tolist()
    for count, item in enumerate(_with_rows(run, known, candidates)):
        _require_row(run, known, runner, item)
        if count + 1 == ROWS:
            return


def _with_rows(
    run: Run, known: KnownRows, items: Iterable[int]
) -> Iterable[tuple[int, bytes, bytes]]:
    for item in items:
        try:
            data, _ = run.manifest.read(item)
        except ImageError:
            continue
        content = digest_bytes(data, run.manifest.page(item))
        if content in known:
            yield item, data, content


def _require_row(
    run: Run, known: KnownRows, runner: Runner, found: tuple[int, bytes, bytes]
) -> None:
    item, data, content = found
    drawn = np.zeros(run.preprocess.out_shape(), np.uint8)
    need, page = min(run.preprocess.resize_size), run.manifest.page(item)
    draw_pixels(decode(data, run.decode, need, page), run.preprocess, drawn, run.decode.mode)
    computed = [
        tap.astype(np.float32) for tap in run.merged(runner(drawn), len(run.preprocess.views))
    ]
    stored = known.vectors(keys_of([content]))
    exact = runner.precision == "fp32"
    error, cosine = worst_row(stored, computed), lowest_cosine(stored, computed)
    if error <= _NEAR if exact else cosine >= MIN_COSINE:
        return
    far = (
        f"relative error {error:.1e}, at most {_NEAR:.0e} expected"
        if exact
        else f"cosine {cosine:.4f}, at least {MIN_COSINE} expected"
    )
    raise ExtractError(
        f"{run.plan.device} computes another row for {run.manifest.ids[item]} than {run.cache} "
        f"holds ({runner.precision}, {far}): new rows would not fit the old ones; go on where the "
        "cache was made, or pass --force --precision fp32 to compute all rows again"
    )
