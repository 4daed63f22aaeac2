"""The loop into memory: items in, one matrix out, no cache."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.backbones import load_backbone
from featx.cache.keys import KEY_DTYPE
from featx.cache.shards import Row
from featx.engines.job import Job, Outcome
from featx.engines.threads import ThreadLoop
from featx.errors import ImageError
from featx.images import DEFAULT_POLICY
from featx.manifest import Manifest
from featx.runtime import Runner, plan_runtime

log = logging.getLogger("featx")


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
        widths = zip(taps, reader.n_features, strict=True)
        self.names: NDArray[Any] = np.array(
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

        def store(rows: list[Row]) -> None:
            for row in rows:
                found[int(row.item)] = np.concatenate(row.vectors)

        def fail(count: int, what: str) -> None:
            name, _, reason = what.partition(": ")
            raise ImageError(f"{manifest.paths[int(name)]}: {reason}")

        job = Job(
            manifest=manifest,
            preprocess=self.preprocess,
            decode=DEFAULT_POLICY,
            runner=self.runner,
            known=lambda content: False,
            store=store,
            merge=lambda taps, n_views: list(taps),
            check=fail,
            n_threads=max(1, min(self.plan.threads, len(manifest))),
        )
        outcome = Outcome(np.zeros(len(manifest), KEY_DTYPE))
        ThreadLoop(job, np.arange(len(manifest)), outcome).run(lambda _: None)
        return found
