"""Metrics of a server for Prometheus."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from featx.serve.recent import RecentPictures

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server, in a registry of their own.

    Parameters
    ----------
    waiting, held, ended
        Give the pictures that wait, the bytes of uploads in memory, and the decoding processes that
        were ended and replaced.
    recent
        The last pictures, which are tested for drift; None where none are kept.
    """

    def __init__(
        self,
        waiting: Callable[[], float],
        held: Callable[[], float],
        ended: Callable[[], float],
        recent: RecentPictures | None = None,
    ) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "featx_requests", "Requests by path and status.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "featx_request_seconds",
            "Seconds from the first byte of a request to its answer.",
            ["path"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.pictures = Counter(
            "featx_pictures", "Pictures by what became of them.", ["outcome"], registry=registry
        )
        self.labels = Counter(
            "featx_labels", "Pictures by the label given.", ["label"], registry=registry
        )
        self.batches = Histogram(
            "featx_batch_size",
            "Pictures in one forward pass.",
            registry=registry,
            buckets=_SIZES,
        )
        Gauge("featx_waiting", "Pictures that wait.", registry=registry).set_function(waiting)
        Gauge("featx_held_bytes", "Bytes of uploads in memory.", registry=registry).set_function(
            held
        )
        Gauge(
            "featx_decoders_ended",
            "Decoding processes that were ended for a picture, and replaced.",
            registry=registry,
        ).set_function(ended)
        if recent is not None:
            self._add_drift(recent)

    def _add_drift(self, recent: RecentPictures) -> None:
        def gauge(name: str, text: str, value: Callable[[], float]) -> None:
            Gauge(f"featx_drift_{name}", text, registry=self._registry).set_function(value)

        def p_value() -> float:
            found = recent.drift()
            return math.nan if found is None else found.p_value

        def unfamiliar() -> float:
            found = recent.drift()
            return math.nan if found is None else found.unfamiliar["value"]

        gauge("pictures", "Last pictures that are tested for drift.", lambda: len(recent))
        gauge("p_value", "Of the test whether they are like the training; NaN below 20.", p_value)
        gauge("unfamiliar_share", "Share of them that is unfamiliar; NaN below 20.", unfamiliar)

    def text(self) -> bytes:
        """Write all of them in Prometheus' text format."""
        return generate_latest(self._registry)
