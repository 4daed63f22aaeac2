"""Operators of an exported graph, and what every rewriting of one needs."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

_aten = torch.ops.aten
CONV = _aten.conv2d.default
NORM = _aten._native_batch_norm_legit_no_training.default
PRODUCTS = {
    CONV,
    _aten.conv1d.default,
    _aten.conv3d.default,
    _aten.linear.default,
    _aten.matmul.default,
    _aten.mm.default,
    _aten.bmm.default,
    _aten.scaled_dot_product_attention.default,
}
# With these the output holds values of the input, so that no rounding is added.
CARRIES = {
    _aten.relu.default,
    _aten.max_pool2d.default,
    _aten.pad.default,
    _aten.constant_pad_nd.default,
    _aten.cat.default,
    _aten.clone.default,
    _aten.dropout.default,
    _aten.permute.default,
    _aten.transpose.int,
    _aten.view.default,
    _aten.reshape.default,
    _aten.flatten.using_ints,
    _aten.unsqueeze.default,
    _aten.squeeze.dim,
    _aten.expand.default,
    _aten.slice.Tensor,
    _aten.select.int,
    _aten.split.Tensor,
    _aten.chunk.default,
    _aten.unbind.int,
    operator.getitem,
}
GATHERS = {_aten.cat.default, _aten.pad.default, _aten.max_pool2d.default}
BOUNDS = {
    _aten.relu.default,
    _aten.hardtanh.default,
    _aten.silu.default,
    _aten.gelu.default,
    _aten.hardswish.default,
    _aten.leaky_relu.default,
}
EXACT = {-1.0, 0.0, 1.0, 6.0}
WEIGHT, BIAS = 1, 2
_GROUPS = 6
_PICTURE_CHANNELS = 4


def product_before(node: fx.Node) -> fx.Node | None:
    """Nearest product that `node` is computed from, if that is all it is computed from."""
    while True:
        source = node.args[0]
        values = [n for n in node.all_input_nodes if n.op != "get_attr"]
        if not isinstance(source, fx.Node) or values != [source]:
            return None
        if source.target in PRODUCTS:
            return source
        node = source


def takes_picture(product: fx.Node) -> bool:
    """True if `product` is a convolution of at most four channels."""
    if product.target is not CONV:
        return False
    weight = product.args[WEIGHT].meta["val"]  # type: ignore[union-attr]
    return bool(weight.shape[1] * (argument(product, _GROUPS) or 1) <= _PICTURE_CHANNELS)


def argument(node: fx.Node, index: int) -> Any:
    """Give a positional argument, None where it was left out."""
    return node.args[index] if len(node.args) > index else None


def is_float(node: fx.Node) -> bool:
    """True if the value of `node`, or the first of its values, is float32 or bf16."""
    value = node.meta.get("val")
    if isinstance(value, (tuple, list)):
        value = value[0] if value else None
    return isinstance(value, Tensor) and value.dtype in (torch.float32, torch.bfloat16)


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

    def constant(self, node: object) -> Tensor | None:
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
