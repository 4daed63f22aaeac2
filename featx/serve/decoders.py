"""The processes that decode for a server: some for prompt answers, fewer for what takes long."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from featx.images import Pixels
from featx.serve.child import Child, Patience
from featx.serve.limits import Limits

if TYPE_CHECKING:
    from featx.serve.batching import Picture
    from featx.serve.embedding import Embedder

PROMPT_SECONDS = 0.5
"""Of the processor; photographs of 24 million pixels take a quarter of a second."""

PROMPT_PIXELS = 25_000_000
_SLOW_NICENESS = 10


class Decoders:
    """Processes that decode, and functions that have them do it.

    A picture that takes longer than `PROMPT_SECONDS`, or has more than `PROMPT_PIXELS`, starts anew
    in one of a few processes of low priority, where it waits for others of its kind alone. There it
    ends after ``decode_seconds``, and the process is replaced. So pictures that are made to be slow
    cost the rest half a second each, and not the server.

    Parameters
    ----------
    embedder
        Says how pictures are decoded and drawn, and in how many threads.
    limits
        What is accepted.

    Attributes
    ----------
    prompt, slow
        One function for each process, as `featx.serve.batching.Batcher` takes them.
    """

    def __init__(self, embedder: Embedder, limits: Limits) -> None:
        threads, most = embedder.plan.threads, limits.pixels
        self._draw = embedder.draw
        brief = min(PROMPT_SECONDS, limits.decode_seconds)
        prompt = Patience(min(PROMPT_PIXELS, most), brief, most)
        slow = Patience(most, limits.decode_seconds, most, final=True, niceness=_SLOW_NICENESS)
        kinds = [prompt] * threads + [slow] * max(1, threads // 2)
        self._children = [Child(kind, embedder.decode, embedder.need) for kind in kinds]
        drawers = [partial(self._decode, child) for child in self._children]
        self.prompt: list[Callable[[Picture], Pixels]] = [*drawers[:threads]]
        self.slow: list[Callable[[Picture], Pixels]] = [*drawers[threads:]]
        for child in self._children[:threads]:
            child.start()

    @property
    def n_ended(self) -> int:
        """Processes that were ended for a picture so far."""
        return sum(child.n_ended for child in self._children)

    def close(self) -> None:
        """End the processes."""
        for child in self._children:
            child.close()

    def _decode(self, child: Child, picture: Picture) -> Pixels:
        try:
            return self._draw(child.decode(picture.data, picture.given_up))
        finally:
            child.start()  # if it was ended: the next picture is not to wait for it
