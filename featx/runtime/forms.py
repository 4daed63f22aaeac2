"""The forms that a network runs in: float32 as it is, lowered, or on a card."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import fx, nn

from featx.errors import brief
from featx.runtime.batches import Pieces, in_batches
from featx.runtime.card import Card
from featx.runtime.checking import Forward, Rescuing
from featx.runtime.compiling import has_depthwise
from featx.runtime.cuda import OnCard
from featx.runtime.forward import EagerForward, GraphForward, Pixels, PlainForward, converted
from featx.runtime.native import is_sound, package_path
from featx.runtime.plan import DTYPES, Precision, RuntimePlan

log = logging.getLogger("featx")

REFERENCE_BATCH = 32  # the float32 reference must fit where a larger fast batch will run

Network: TypeAlias = nn.Module | Callable[[], nn.Module]
"""A reader, or what loads it once it is needed."""


def opened(network: Network) -> nn.Module:
    """The reader, loaded if it is not yet."""
    return network if isinstance(network, nn.Module) else network()


class Forms:
    """Makes what runs a network in a precision, from its reader.

    Parameters
    ----------
    plan, image_shape, key
        As of `featx.runtime.Runner`.
    pieces
        Whose size is the batch that a form is made for.
    card
        Where the plan is for one.

    Attributes
    ----------
    channels_last : bool
        Memory layout of weights and pixels.
    """

    def __init__(
        self,
        plan: RuntimePlan,
        image_shape: tuple[int, int, int],
        key: str,
        pieces: Pieces,
        card: Card | None,
    ) -> None:
        self._plan, self._image_shape, self._key, self._pieces = plan, image_shape, key, pieces
        self.channels_last = plan.channels_last
        self.device = torch.device(plan.device) if card is None else card.device
        self._on = None if card is None else OnCard(card, plan.device)
        self._program: torch.export.ExportedProgram | None = None

    def close(self) -> None:
        """End what runs beside the network."""
        self.forget_trace()
        if self._on is not None:
            self._on.close()

    def forget_trace(self) -> None:
        """Let go of the traced network once the precision is chosen: it holds the weights."""
        self._program = None

    @property
    def batch_shape(self) -> tuple[int, int, int, int]:
        """Shape of a full batch."""
        return (self._pieces.size, *self._image_shape)

    def copy(self, reader: nn.Module, precision: Precision) -> nn.Module:
        """Copy the network to the device."""
        return converted(reader, self.device, DTYPES[precision], self.channels_last)

    def plain(self, exact: nn.Module) -> Forward:
        """The network in float32 on its device, operator by operator, on any number of pictures."""
        if self._plan.kind == "cpu":
            return EagerForward(exact)
        return PlainForward(exact, self.device, exact=True)

    def in_precision(
        self, exact: nn.Module, precision: Precision, sample: Pixels
    ) -> tuple[nn.Module, Forward]:
        """Build the network in a precision: the module, and what runs it.

        There is one form of it for a network, whatever the pictures: two that each agree with
        float32 may be further from each other, and a later run has to give the same features.
        """
        if precision == "fp32":
            self._keep_exact()
            return exact, self._uncompiled(exact, exact, precision, sample)
        graph = self._lowered(exact, precision) if has_depthwise(exact) else None
        if graph is not None:
            return graph, GraphForward(graph, self._pieces.size)
        module = self.copy(exact, precision)
        return module, self._uncompiled(module, exact, precision, sample)

    def on_device(
        self, module: Any, exact: nn.Module, precision: Precision, sample: Pixels
    ) -> Forward:
        """Run a network on a card or on Metal; what overflows in float16 is computed again."""
        forward: Forward
        if self._on is None:
            forward = PlainForward(module, self.device, precision == "fp32")
        else:
            forward = self._on.forward(module, precision, sample, self.batch_shape)
        if precision != "fp16":
            return forward
        rescue = in_batches(self.plain(exact), REFERENCE_BATCH)
        return Rescuing(forward, rescue)

    def kept(self, precision: Precision) -> Forward | None:
        """The forward pass of the network that an earlier run kept, or None."""
        graph = self._kept_graph(precision)
        return None if graph is None else GraphForward(graph, self._pieces.size)

    def _uncompiled(
        self, module: nn.Module, exact: nn.Module, precision: Precision, sample: Pixels
    ) -> Forward:
        if self._plan.kind == "cpu":
            return EagerForward(module)
        make: Callable[[], Forward] = partial(self.on_device, module, exact, precision, sample)
        forward = make()
        self._pieces.on_smaller = make if self._on is not None else None
        return forward

    def _lowered(self, exact: nn.Module, precision: Precision) -> nn.Module | None:
        if self._plan.kind != "cpu" or precision != "bf16":
            return None
        if (kept := self._kept_graph(precision)) is not None:
            return kept
        from featx.runtime.graph.lowering import lowered_program, traced  # loads much of torch

        try:
            self._program = traced(exact, self.batch_shape)
            graph = lowered_program(self._program)
        except Exception as error:  # export raises what it likes; there is another way
            log.debug("the network cannot be lowered to a graph (%s)", brief(error))
            return None
        self._keep(graph, precision)
        return graph

    def _keep_exact(self) -> None:
        """Keep the network in float32 too, where it was traced and the lowered one is given up."""
        program, self._program = self._program, None
        if program is None:
            return
        from featx.runtime.graph.lowering import lowered_program

        try:
            self._keep(lowered_program(program, torch.float32), "fp32")
        except Exception as error:  # as above; only a later run would have been faster
            log.debug("the network cannot be kept (%s)", brief(error))

    def _kept_graph(self, precision: Precision) -> fx.GraphModule | None:
        from featx.runtime.graph.kept import read_graph

        if not self._key or self._plan.kind != "cpu":
            return None
        path = self._graph_path(precision)
        if not is_sound(path):
            return None
        try:
            return read_graph(path)
        except Exception as error:  # of another version, or not what its name says
            log.debug("the lowered network of an earlier run cannot be read (%s)", brief(error))
            return None

    def _keep(self, graph: fx.GraphModule, precision: Precision) -> None:
        from featx.runtime.graph.kept import keep_graph

        if not self._key:
            return
        try:
            keep_graph(graph, self._graph_path(precision))
        except (OSError, ValueError) as error:
            log.debug("the lowered network could not be kept (%s)", brief(error))

    def _graph_path(self, precision: Precision) -> Path:
        plan = replace(self._plan, precision=precision)
        return package_path(self._key, plan, self.batch_shape, "graph")
