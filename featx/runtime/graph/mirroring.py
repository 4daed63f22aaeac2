"""A network upside down, whose one-sided paddings become a convolution's own.

TensorFlow pads an even map one pixel more below and to the right than above and to the left, if a
convolution of stride 2 follows; so do its networks in timm, EfficientNet-Lite among them. No
convolution of torch can, so the map is copied into a larger one before. Turn the picture and
every kernel by 180 degrees, and the larger side comes first: the padding is then that of a
convolution padded alike on all sides, whose last row and column are never reached. What is summed
or averaged over space does not change by it, and what else leaves the turned part is turned back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from featx.runtime.graph.operators import BIAS, CONV, WEIGHT, Rewriting, argument

_aten = torch.ops.aten
_SPACE = [2, 3]
_STRIDE, _PADDING, _DILATION = BIAS + 1, BIAS + 2, BIAS + 3
# What takes each place by itself, under the names of the schemas, in place or not.
_POINTWISE = {
    f"aten::{name}"
    for name in (
        *("relu", "relu6", "hardtanh", "clamp", "clamp_min", "silu", "sigmoid", "hardswish"),
        *("hardsigmoid", "gelu", "leaky_relu", "elu", "mish", "tanh", "softplus", "pow"),
        *("add", "sub", "mul", "div", "clone", "contiguous", "to", "dropout"),
    )
}
_NORMS = {"aten::batch_norm", "aten::_native_batch_norm_legit_no_training"}
_POOLS_ALL = {"aten::adaptive_avg_pool2d", "aten::adaptive_max_pool2d"}
_REDUCES = {"aten::mean", "aten::amax", "aten::sum"}


def mirrored(module: fx.GraphModule) -> bool:
    """Turn a graph by 180 degrees if that saves copies of maps.

    Parameters
    ----------
    module
        From ``ExportedProgram.module()``, on uint8 of shape (batch, height, width, 3).

    Returns
    -------
    changed : bool
        Whether it did. If not, the graph is of no use any more: it may be turned in part.
    """
    return _Mirroring(module).run()


class _Mirroring(Rewriting):
    """The turning of one graph."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.turned: set[fx.Node] = set()  # nodes whose value is upside down
        self.pads: set[fx.Node] = set()  # paddings of such, for convolutions to take over
        self.back: dict[fx.Node, fx.Node] = {}  # such a node to its value the right way up
        self.saved = 0

    def run(self) -> bool:
        self.drop_checks()
        picture = self._picture()
        if picture is None:
            return False
        nodes = list(self.graph.nodes)
        self._turn_picture(picture)
        for node in nodes[nodes.index(picture) + 1 :]:
            if not self.turned.isdisjoint(node.all_input_nodes):
                self._turn(node)
            elif not self.pads.isdisjoint(node.all_input_nodes):
                self._turn_padded(node)
        self.finish()
        return self.saved > len(self.back)

    def _picture(self) -> fx.Node | None:
        """Find where the pixels come to stand channels first."""
        for node in self.graph.nodes:
            if node.target is _aten.permute.default and list(node.args[1]) == [0, 3, 1, 2]:
                return node if node.args[0].op == "placeholder" else None
        return None

    def _turn_picture(self, picture: fx.Node) -> None:
        turned = self._flip(picture)
        picture.replace_all_uses_with(turned, delete_user_cb=lambda user: user is not turned)
        self.turned.add(turned)

    def _flip(self, node: fx.Node) -> fx.Node:
        with self.graph.inserting_after(node):
            flip = self.graph.call_function(_aten.flip.default, (node, _SPACE))
        flip.meta["val"] = node.meta["val"]
        return flip

    def _turn(self, node: fx.Node) -> None:
        """Let `node` take what is turned, or else what it took before."""
        name = _schema(node)
        if self._is_padding(node):
            self.pads.add(node)
        elif self._turns(node, name):
            self.turned.add(node)
        elif not self._gathers(node, name):
            node.args = fx.map_arg(node.args, self._turned_back)
            node.kwargs = fx.map_arg(node.kwargs, self._turned_back)

    def _turn_padded(self, conv: fx.Node) -> None:
        """Let a convolution take over the padding before it, or the padding be as it was."""
        pad: Any = conv.args[0]
        if self._turn_convolution(conv):
            self.turned.add(conv)
            self.saved += 1
        else:
            self.pads.remove(pad)
            pad.args = fx.map_arg(pad.args, self._turned_back)

    def _turns(self, node: fx.Node, name: str) -> bool:
        if node.target is CONV:
            return self._turn_convolution(node)
        if name in _NORMS:
            return node.args[0] in self.turned
        return name in _POINTWISE and self._fits(node)

    def _fits(self, node: fx.Node) -> bool:
        """True if all that `node` combines is turned, or the same at every place."""
        return all(n in self.turned or _is_even(n) for n in node.all_input_nodes)

    def _gathers(self, node: fx.Node, name: str) -> bool:
        """True if the result is one for the whole map, whatever is where."""
        if name in _POOLS_ALL:
            return set(node.args[1]) == {1}  # type: ignore[arg-type]
        over = argument(node, 1)
        return name in _REDUCES and isinstance(over, list) and sorted(d % 4 for d in over) == _SPACE

    def _is_padding(self, node: fx.Node) -> bool:
        """True if `node` puts zeros around a map, which the convolutions after it take over."""
        widths = argument(node, 1)
        return (
            _schema(node) in ("aten::pad", "aten::constant_pad_nd")
            and len(widths) == 4
            and min(widths) >= 0
            and not node.kwargs
            and not any(argument(node, k) not in (None, 0, "constant") for k in (2, 3))
            and all(user.target is CONV and user.args[0] is node for user in node.users)
        )

    def _turn_convolution(self, conv: fx.Node) -> bool:
        source: Any = conv.args[0]
        kernel = self.constant(conv.args[WEIGHT])
        before = _pair(argument(conv, _PADDING) or [0])
        if source in self.pads:
            left, _, top, _ = argument(source, 1)
            before, source = [before[0] + top, before[1] + left], source.args[0]
        if kernel is None or source not in self.turned:
            return False
        padding = self._ahead(conv, source, kernel, before)
        if padding is None:
            return False
        with self.graph.inserting_before(conv):
            weight = self.add_constant(kernel.flip(_SPACE))
        args = [*conv.args, *(None, [1, 1], [0, 0])[len(conv.args) - BIAS :]]
        args[0], args[WEIGHT], args[_PADDING] = source, weight, padding
        conv.args = tuple(args)
        return True

    def _ahead(
        self, conv: fx.Node, source: fx.Node, kernel: Tensor, before: list[int]
    ) -> list[int] | None:
        """Find what to pad on all sides of the turned map, where `before` came ahead of the other.

        It is what the windows used of the padding after the map, as long as no window is added.
        """
        stride = _pair(argument(conv, _STRIDE) or [1])
        dilation = _pair(argument(conv, _DILATION) or [1])
        found = []
        for axis in (0, 1):
            n, m = (int(node.meta["val"].shape[2 + axis]) for node in (source, conv))
            reach = dilation[axis] * (kernel.shape[2 + axis] - 1) + 1
            after = stride[axis] * (m - 1) + reach - n - before[axis]
            if after < 0 or (n + 2 * after - reach) // stride[axis] + 1 != m:
                return None
            found.append(after)
        return found

    def _turned_back(self, node: fx.Node) -> fx.Node:
        if node not in self.turned:
            return node
        if node not in self.back:
            self.back[node] = self._flip(node)
        return self.back[node]


def _schema(node: fx.Node) -> str:
    """Name of an operator whether it works in place or not."""
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else str(schema.name).removesuffix("_")


def _is_even(node: fx.Node) -> bool:
    """True if a value is the same at every place of the maps it is combined with."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and set(value.shape[-2:]) <= {1}


def _pair(value: Any) -> list[int]:
    values = [int(v) for v in value]
    return values * 2 if len(values) == 1 else values
