"""A reader as a graph whose products run in a lower precision and all else where it matters.

Four things make it closer to float32 than a network whose modules are converted: BatchNorm is
folded in before weights are rounded; depthwise kernels keep their sums; the biases that no
activation bounds are added in float32; and so run the first two convolutions where the second is
depthwise: it takes differences of neighbouring pixels, and nothing averages what rounding does to
them. In EfficientNet-Lite0 that one layer made three quarters of the whole error.

A graph has no hooks, so threads may share it.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from featx.runtime.compiling import exported, quiet
from featx.runtime.graph.operators import (
    BIAS,
    BOUNDS,
    CARRIES,
    CONV,
    EXACT,
    GATHERS,
    NORM,
    PRODUCTS,
    WEIGHT,
    Rewriting,
    argument,
    is_float,
    product_before,
    takes_picture,
)


def folded(
    weight: Tensor,
    bias: Tensor | None,
    norm: tuple[Tensor | None, Tensor | None, Tensor, Tensor, float],
) -> tuple[Tensor, Tensor]:
    """Fold a BatchNorm into the convolution before it, in float64.

    Parameters
    ----------
    weight, bias
        Of the convolution: shapes (out, in / groups, height, width) and (out,).
    norm
        Scale, shift, running mean, running variance, each of shape (out,), and epsilon.

    Returns
    -------
    weight, bias : in the type and memory layout of `weight`
    """
    gamma, beta, mean, variance, epsilon = norm
    scale = (variance.double() + epsilon).rsqrt()
    scale = scale if gamma is None else scale * gamma.double()
    shift = -mean.double() if bias is None else bias.double() - mean.double()
    shift = shift * scale if beta is None else shift * scale + beta.double()
    scaled = weight.double() * scale.view(-1, *[1] * (weight.ndim - 1))
    return scaled.to(weight.dtype), shift.to(weight.dtype)


def round_keeping_sums(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Round every kernel up and down so that its sum stays what it was.

    What enters a depthwise convolution is mostly positive and smooth, so the error of its output
    is the input's mean times the error of the kernel's sum. Rounding to nearest leaves that sum
    to chance; here the weights whose other neighbour brings the sum closer are moved to it, one
    at a time.

    Parameters
    ----------
    weight
        Float32, shape (kernels, ...).
    dtype
        The lower precision.

    Returns
    -------
    rounded : `weight` in `dtype`, each value one of its two neighbours there

    Examples
    --------
    >>> kernel = torch.full((1, 1, 3, 3), 1.003)
    >>> near = kernel.to(torch.bfloat16).double().sum() - kernel.double().sum()
    >>> kept = round_keeping_sums(kernel, torch.bfloat16).double().sum() - kernel.double().sum()
    >>> round(abs(float(near)), 3), round(abs(float(kept)), 3)
    (0.027, 0.004)
    """
    exact = weight.flatten(1).double()
    low = exact.to(dtype)
    step = torch.where(low.double() > exact, -torch.inf, torch.inf).to(dtype)
    values, other = low.double(), torch.nextafter(low, step).double()
    rows = torch.arange(len(exact), device=exact.device)
    for _ in range(exact.shape[1]):
        error = (values - exact).sum(1)
        moved = (error[:, None] + other - values).abs()
        best = moved.argmin(1)
        better = moved[rows, best] < error.abs()
        if not better.any():
            break
        chosen, column = rows[better], best[better]
        values[chosen, column], other[chosen, column] = (
            other[chosen, column],
            values[chosen, column],
        )
    rounded = values.to(dtype).view(weight.shape)
    return rounded.contiguous(memory_format=_layout(weight))


def _layout(weight: Tensor) -> torch.memory_format:
    last = weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


aten = torch.ops.aten


def lowered(
    module: nn.Module, batch_shape: tuple[int, ...], dtype: torch.dtype = torch.bfloat16
) -> fx.GraphModule:
    """Turn a float32 reader into a graph that multiplies in `dtype`.

    Parameters
    ----------
    module
        In evaluation mode, float32, on the CPU. It is read, never changed.
    batch_shape
        (batch, height, width, 3) of the uint8 input; the graph takes no other.
    dtype
        Of the products and of what lies between them; float32 folds BatchNorm and no more.

    Returns
    -------
    graph : GraphModule
        Maps uint8 of `batch_shape` to a tuple of float32 tensors, as `module` does.

    Raises
    ------
    Exception
        Whatever export raises for a network that cannot be traced.
    """
    return lowered_program(traced(module, batch_shape), dtype)


def traced(module: nn.Module, batch_shape: tuple[int, ...]) -> torch.export.ExportedProgram:
    """Trace a reader once, for any number of `lowered_program`; arguments as of `lowered`."""
    with quiet(), torch.no_grad():
        program: torch.export.ExportedProgram = exported(module, batch_shape).run_decompositions({})
    return program


def lowered_program(
    program: torch.export.ExportedProgram, dtype: torch.dtype = torch.bfloat16
) -> fx.GraphModule:
    """Make a graph that multiplies in `dtype` of what `traced` gave; see `lowered`."""
    with quiet(), torch.no_grad():
        graph_module: fx.GraphModule = program.module()
        _Lowering(graph_module, dtype).run()
    return graph_module


class _Lowering(Rewriting):
    """The rewriting of one graph."""

    def __init__(self, module: fx.GraphModule, dtype: torch.dtype) -> None:
        super().__init__(module)
        self.dtype = dtype
        self.low: set[fx.Node] = set()  # nodes whose value is of the lower precision
        self.casts: dict[tuple[fx.Node, torch.dtype], fx.Node] = {}
        self.exact: set[fx.Node] = set()  # products that stay float32

    def run(self) -> None:
        self.drop_checks()
        for node in list(self.graph.nodes):
            if node.target is NORM:
                self._fold(node)
        if self.dtype != torch.float32:
            self._keep_first_exact()
            for node in list(self.graph.nodes):
                self._lower(node)
        self.finish()

    def _fold(self, norm: fx.Node) -> None:
        conv, *rest = norm.args
        parameters = [None if p is None else self.constant(p) for p in rest[:4]]
        if not isinstance(conv, fx.Node) or conv.target is not CONV or len(conv.users) != 1:
            return
        weight, bias = self.constant(conv.args[WEIGHT]), argument(conv, BIAS)
        known = weight is not None and (bias is None or self.constant(bias) is not None)
        outputs = list(norm.users)
        if not known or parameters[2] is None or parameters[3] is None:
            return
        if any(user.target is not operator.getitem or user.args[1] != 0 for user in outputs):
            return
        new = folded(weight, self.constant(bias), (*parameters, rest[-1]))  # type: ignore[arg-type]
        with self.graph.inserting_before(conv):
            constants = [self.add_constant(value) for value in new]
        conv.args = (conv.args[0], *constants, *conv.args[BIAS + 1 :])
        for user in outputs:
            user.replace_all_uses_with(conv)
            self.graph.erase_node(user)
        self.graph.erase_node(norm)

    def _keep_first_exact(self) -> None:
        """Mark a depthwise convolution that comes first after the picture's, and that one."""
        for node in self.graph.nodes:
            if node.target is CONV and self._is_depthwise(node):
                before = product_before(node)
                if before is not None and takes_picture(before):
                    self.exact |= {node, before}

    def _lower(self, node: fx.Node) -> None:
        if node.target in PRODUCTS and is_float(node) and node not in self.exact:
            self._lower_product(node)
        elif node.target in GATHERS and is_float(node):
            node.args = fx.map_arg(node.args, self._to_low)
            self.low.add(node)
        elif self._carries(node):
            self.low.add(node)
        elif node.op != "get_attr":
            node.args = fx.map_arg(node.args, self._to_high)
            node.kwargs = fx.map_arg(node.kwargs, self._to_high)

    def _carries(self, node: fx.Node) -> bool:
        inputs = [n for n in node.all_input_nodes if is_float(n)]
        if not inputs or any(n not in self.low for n in inputs):
            return False
        if node.target is aten.hardtanh.default:  # of ReLU6, whose bounds are exact
            return set(node.args[1:]) <= EXACT
        return node.target in CARRIES

    def _lower_product(self, node: fx.Node) -> None:
        args = list(node.args)
        bias = argument(node, BIAS) if node.target is CONV else None
        apart = bias is not None and self._matters(node)
        if apart:
            args[BIAS] = None
        if node.target is CONV and self._is_depthwise(node):
            args[WEIGHT] = self._rounded_kernel(node)
        node.args = fx.map_arg(tuple(args), self._to_low)
        node.kwargs = fx.map_arg(node.kwargs, self._to_low)
        self.low.add(node)
        if apart:
            self._add_bias_after(node, bias)

    def _rounded_kernel(self, conv: fx.Node) -> fx.Node:
        weight = self.constant(conv.args[WEIGHT])
        assert weight is not None  # is_depthwise looked
        with self.graph.inserting_before(conv):
            rounded = self.add_constant(round_keeping_sums(weight, self.dtype))
        self.low.add(rounded)
        return rounded

    def _matters(self, conv: fx.Node) -> bool:
        """True if a rounded bias would be seen: no activation follows, or the picture comes in."""
        users = list(conv.users)
        bounded = len(users) == 1 and users[0].target in BOUNDS
        return not bounded or takes_picture(conv)

    def _is_depthwise(self, conv: fx.Node) -> bool:
        weight = self.constant(conv.args[WEIGHT])
        return weight is not None and weight.shape[1] == 1 and weight[0].numel() > 1

    def _add_bias_after(self, conv: fx.Node, bias: Any) -> None:
        users = list(conv.users)
        with self.graph.inserting_after(conv):
            high = self._cast(conv, torch.float32)
        with self.graph.inserting_after(high):
            column = self.graph.call_function(aten.view.default, (bias, [1, -1, 1, 1]))
        with self.graph.inserting_after(column):
            total = self.graph.call_function(aten.add.Tensor, (high, column))
        total.meta["val"] = conv.meta["val"]
        for user in users:
            user.replace_input_with(conv, total)

    def _to_low(self, node: fx.Node) -> fx.Node:
        if node in self.low or not is_float(node):
            return node
        return self._cast_once(node, self.dtype)

    def _to_high(self, node: fx.Node) -> fx.Node:
        """Give the float32 value, that of the rounded one where a product has rounded it."""
        if node in self.low:
            return self._cast_once(node, torch.float32)
        rounded = self.casts.get((node, self.dtype))
        if rounded is not None and node.op != "get_attr":
            return self._cast_once(rounded, torch.float32)
        return node

    def _cast_once(self, node: fx.Node, dtype: torch.dtype) -> fx.Node:
        if (node, dtype) not in self.casts:
            constant = self.constant(node) if dtype == self.dtype else None
            with self.graph.inserting_after(node):
                if constant is None:
                    cast = self._cast(node, dtype)
                else:
                    cast = self.add_constant(constant.to(dtype))
            if dtype == self.dtype:
                self.low.add(cast)
            self.casts[node, dtype] = cast
        return self.casts[node, dtype]

    def _cast(self, node: fx.Node, dtype: torch.dtype) -> fx.Node:
        cast = self.graph.call_function(aten.to.dtype, (node, dtype))
        cast.meta["val"] = node.meta["val"]
        return cast
