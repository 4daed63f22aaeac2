"""The loop into memory: items in, one matrix out, no cache."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from featx.backbones import load_backbone
from featx.cache.ids import KEY_DTYPE, keys_of
from featx.cache.staging import Row
from featx.errors import ImageError
from featx.extraction.threads import Job, Outcome, ThreadLoop
from featx.images import DEFAULT_POLICY
from featx.items import Manifest
from featx.progress import waiting
from featx.runtime import Runner, plan_runtime
from featx.typing import RowValues

log = logging.getLogger("featx")

_MOST_BYTES = 256 << 20
"""Vectors that one network remembers: 50,000 of 1,280 features."""


class VectorStore:
    """Vectors by the content of their images, up to a number of bytes; the oldest go first."""

    def __init__(self, most: int = _MOST_BYTES) -> None:
        self.most, self.n_bytes = most, 0
        self._found: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: bytes) -> NDArray[np.float32] | None:
        """The vector of a content, or None."""
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def put(self, key: bytes, vector: NDArray[np.float32]) -> None:
        """Remember a vector, and forget the oldest where there is no room."""
        with self._lock:
            if key in self._found:
                return
            self._found[key] = vector
            self.n_bytes += vector.nbytes
            while self.n_bytes > self.most:
                self.n_bytes -= self._found.popitem(last=False)[1].nbytes


class Network:
    """A loaded backbone with its taps, ready to embed.

    Parameters
    ----------
    runtime
        Device, precision, batch size and threads, as `featx.runtime.plan_runtime` takes them.
    """

    def __init__(
        self,
        backbone: str,
        weights: str | None,
        layers: tuple[str, ...],
        pool: str | None,
        input_size: int | None,
        runtime: tuple[str, str, int | str, int | None],
    ) -> None:
        device, precision, batch_size, threads = runtime
        with waiting(f"loading {backbone}"):
            loaded = load_backbone(backbone, weights=weights)
        for line in loaded.notes_for(backbone):
            log.info("%s", line)
        self.preprocess = loaded.preprocess.override(input_size=input_size)
        taps = loaded.select(layers, pool)
        reader = loaded.reader(taps, self.preprocess)
        self.plan = plan_runtime(
            device=device, precision=precision, batch_size=batch_size, threads=threads
        )
        self.runner = Runner(reader, self.plan, (*self.preprocess.input_size, 3))
        self.vectors = VectorStore()
        widths = zip(taps, reader.n_features, strict=True)
        self.names: RowValues = np.array(
            [f"{tap.name}_{k}" for tap, width in widths for k in range(width)], dtype=object
        )

    def embed(self, manifest: Manifest) -> NDArray[np.float32]:
        """Embed every item.

        Returns
        -------
        features : float32, shape (n, n_features)

        Raises
        ------
        ImageError
            At the first image that cannot be read.
        """
        found = np.empty((len(manifest), len(self.names)), np.float32)
        used: dict[bytes, NDArray[np.float32]] = {}  # what may be forgotten before the end

        def known(content: bytes) -> bool:
            key = bytes(keys_of([content])[0])
            vector = self.vectors.get(key)
            if vector is not None:
                used[key] = vector
            return vector is not None

        def store(rows: list[Row]) -> None:
            for row in rows:
                found[int(row.item)] = vector = np.concatenate(row.vectors)
                self.vectors.put(bytes(keys_of([row.content])[0]), vector)

        def fail(count: int, what: str) -> None:
            name, _, reason = what.partition(": ")
            raise ImageError(f"{manifest.paths[int(name)]}: {reason}")

        job = Job(
            manifest=manifest,
            preprocess=self.preprocess,
            decode=DEFAULT_POLICY,
            runner=self.runner,
            known=known,
            store=store,
            merge=lambda taps, n_views: list(taps),
            check=fail,
            n_threads=max(1, min(self.plan.threads, len(manifest))),
        )
        outcome = Outcome(np.zeros(len(manifest), KEY_DTYPE))
        ThreadLoop(job, np.arange(len(manifest)), outcome).run(lambda _: None)
        for item, key in enumerate(map(bytes, outcome.content)):
            if key in used:
                found[item] = used[key]
        return found
