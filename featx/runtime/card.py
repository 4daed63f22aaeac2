"""The calls that featx makes to a card: streams, events, memory and graphs; the only ones to CUDA.

Work is handed over as closures, each on a stream, so that a test can put streams of its own in
place of CUDA's and see what happens when they run late.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featx.errors import brief
from featx.runtime.machine import share_of_memory

log = logging.getLogger("featx")

Stream: TypeAlias = Any
Event: TypeAlias = Any


class Card:
    """One CUDA device.

    Parameters
    ----------
    device
        ``cuda`` or ``cuda:1``.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def stream(self) -> Stream:
        """Make a stream of this card."""
        with torch.cuda.device(self.device):
            return torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def event(self) -> Event:
        """Make an event on which a thread waits without using its core."""
        with torch.cuda.device(self.device):
            return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def enqueue(self, stream: Stream, work: Callable[[], None]) -> None:
        """Queue what `work` launches on a stream."""
        with torch.cuda.device(self.device), torch.cuda.stream(stream), torch.inference_mode():
            work()

    def record(self, event: Event, stream: Stream) -> None:
        """Let `event` happen once all that is queued on `stream` by now has run."""
        event.record(stream)

    def follow(self, stream: Stream, event: Event) -> None:
        """Let what comes next on `stream` wait for `event`."""
        stream.wait_event(event)

    def wait(self, event: Event) -> None:
        """Let this thread wait for `event`; other threads go on."""
        event.synchronize()

    def settle(self) -> None:
        """Wait until nothing runs on the card any more."""
        torch.cuda.synchronize(self.device)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory on the card, zeroed."""
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def beside(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory here that the card can write to by itself, where there is such memory."""
        return pinned_tensor(shape, dtype)

    def capture(self, work: Callable[[], None], stream: Stream) -> Callable[[], None]:
        """Record what `work` launches as a CUDA graph; calling what is given launches it again.

        Other threads may allocate meanwhile.
        """
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.device(self.device),
            torch.inference_mode(),
            torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
        ):
            work()
        return graph.replay

    def share(self, sharers: int) -> int:
        """Bytes that one of several workers may plan with, of what nobody uses now."""
        free, total = torch.cuda.mem_get_info(self.device)
        return share_of_memory(free, total, sharers)

    def pictures(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Memory here for pictures, uint8, from which the card copies by itself; zeroed."""
        found: NDArray[np.uint8] = self.beside(shape, torch.uint8).zero_().numpy()
        return found

    def release(self) -> None:
        """Hand memory that is kept for later back to the card."""
        with contextlib.suppress(RuntimeError), torch.cuda.device(self.device):
            torch.cuda.empty_cache()


_unpinned: set[str] = set()


def pinned_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Allocate page-locked memory; ordinary memory, with one line, where there is none."""
    try:
        return torch.empty(shape, dtype=dtype, pin_memory=True)
    except RuntimeError as error:
        reason = brief(error)
    if not _unpinned:
        _unpinned.add(reason)
        log.warning(
            "no page-locked memory (%s); copies to the card are slower: raise `ulimit -l`", reason
        )
    return torch.empty(shape, dtype=dtype)
