"""What every rewriting of an exported graph needs: its constants, and a whole graph after."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

_CHECK = torch.ops.aten._assert_tensor_metadata.default


class Rewriting:
    """A graph that is being rewritten in place.

    Parameters
    ----------
    module
        From ``ExportedProgram.module()``, whose nodes know the shape of their value.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.module, self.graph = module, module.graph
        self._n_constants = 0

    def drop_checks(self) -> None:
        """Remove what checks types and shapes of the graph as it was."""
        for node in list(self.graph.nodes):
            guard = node.op == "call_module" and node.target == "_guards_fn"
            if guard or node.target is _CHECK:
                self.graph.erase_node(node)

    def constant(self, node: Any) -> Tensor | None:
        """Value of a weight or of another constant, None for any other node."""
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return None
        value = operator.attrgetter(str(node.target))(self.module)
        return value.detach() if isinstance(value, Tensor) else None

    def add_constant(self, value: Tensor) -> fx.Node:
        """Add a constant where the graph's insertion point is."""
        while hasattr(self.module, name := f"constant_{self._n_constants}"):
            self._n_constants += 1
        self.module.register_buffer(name, value)
        node = self.graph.get_attr(name)
        node.meta["val"] = value
        return node

    def finish(self) -> None:
        """Drop what nobody reads any more, and make the graph callable."""
        self.graph.eliminate_dead_code()
        self.module.delete_all_unused_submodules()
        self.graph.lint()
        self.module.recompile()
