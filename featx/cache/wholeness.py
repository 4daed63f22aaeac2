"""Whether caches are, together, the whole that they were dealt from, and where each comes from."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featx.cache.held import Held
from featx.errors import CacheError
from featx.portion import Dealt, listed

_OF_A_RUN = ("command", "host", "started", "finished", "seconds", "embedded", "reused", "shard")


def require_whole(held: Sequence[Held], partial: bool) -> Dealt | None:
    """Refuse shards that are not, together, the whole, unless a part is wanted.

    Returns
    -------
    dealt
        What the caches hold together; None if it is all of their source.

    Raises
    ------
    CacheError
        If shards are missing, given twice, or dealt from different listings.
    """
    shards = [(one.path, dealt) for one in held if (dealt := one.dealt) is not None]
    if len(held) == 1 and not shards:
        only = held[0].path
        raise CacheError(
            f"{only} is no folder of parts, which `featx split CACHE {only}` writes, and one file "
            "already; name all caches that are to be merged"
        )
    if not shards:
        return None
    path, first = shards[0]
    taken: dict[int, Path] = {}
    for other, dealt in shards:
        if dealt.of != first.of:
            raise CacheError(
                f"{path} holds {first} and {other} {dealt}; shards of one count alone go together"
            )
        for number in dealt.held:
            if number in taken:
                raise CacheError(f"shard {number}/{first.of} is in {taken[number]} and in {other}")
            taken[number] = other
    for other, dealt in shards:
        if (dealt.names, dealt.listing) != (first.names, first.listing) and not partial:
            raise CacheError(
                f"{path} was dealt from a source of {first.names} names, and {other} from another "
                f"listing, of {dealt.names}: the source changed in between; run the shards again, "
                "or pass --partial"
            )
    alike = all((d.names, d.listing) == (first.names, first.listing) for _, d in shards)
    joint = Dealt(tuple(sorted(taken)), first.of, first.names, first.listing if alike else "")
    if joint.missing and not partial:
        one = len(joint.missing) == 1
        raise CacheError(
            f"{'shard' if one else 'shards'} {listed(joint.missing)} of {joint.of} "
            f"{'is' if one else 'are'} missing (given: {listed(joint.held)}); extract "
            f"{'it' if one else 'them'}, or pass --partial to merge without"
        )
    return joint if joint.missing or not alike else None


def joint_provenance(held: Sequence[Held], dealt: Dealt | None) -> dict[str, Any]:
    """Say what all caches share as the first says it, and what is of each run in a list."""
    first = held[0].provenance
    runs = []
    for one in held:
        own = one.provenance
        kept = {k: v for k, v in own.items() if k in _OF_A_RUN or first.get(k) != v}
        runs.append({"cache": str(one.path), "rows": one.n_rows, **kept})
    return {
        **{name: value for name, value in first.items() if name not in _OF_A_RUN},
        "command": " ".join(sys.argv),
        "merged": runs,
        **({} if dealt is None else {"shard": dealt.to_dict()}),
    }
