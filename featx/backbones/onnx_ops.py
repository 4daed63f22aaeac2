"""The ONNX operators of image classifiers, as functions on tensors.

Sources: the operator pages of https://onnx.ai/onnx/operators. Integers that only say shapes are
numpy arrays throughout, so that a network stays traceable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Attributes = dict[str, Any]
Value = Any  # Tensor, integer array, or None for an optional input that was left out
Operator = Callable[..., Value]

OPERATORS: dict[str, Operator] = {}


def _operator(*names: str) -> Callable[[Operator], Operator]:
    def register(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register


def _simple(name: str, function: Operator) -> None:
    OPERATORS[name] = lambda attributes, *values: function(*values)


def _shapes(*values: Value) -> bool:
    return not any(isinstance(v, Tensor) for v in values)


def _where(chosen: Value, a: Value, b: Value) -> Tensor:
    return torch.where(torch.as_tensor(chosen), torch.as_tensor(a), torch.as_tensor(b))


_SIMPLE: dict[str, Operator] = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Sqrt": lambda x: x**0.5,
    "HardSwish": functional.hardswish,
    "Softplus": functional.softplus,
    "Mish": functional.mish,
    "Identity": lambda x: x,
    "Dropout": lambda x, *_: x,
    "MatMul": torch.matmul,
    "Neg": lambda x: -x,
    "Ceil": lambda x: torch.ceil(x) if isinstance(x, Tensor) else np.ceil(x),
    "Floor": lambda x: torch.floor(x) if isinstance(x, Tensor) else np.floor(x),
    "Equal": lambda a, b: a == b,
    "Where": lambda c, a, b: np.where(c, a, b) if _shapes(c, a, b) else _where(c, a, b),
    "Expand": lambda x, shape: x.expand(np.broadcast_shapes(x.shape, tuple(shape.tolist()))),
    "Range": lambda *bounds: np.arange(*(np.asarray(b).item() for b in bounds)),
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "GlobalMaxPool": lambda x: x.amax((2, 3), keepdim=True),
}
for _name, _function in _SIMPLE.items():
    _simple(_name, _function)


def _beside(x: Tensor, number: Value) -> Tensor:
    """A number as a tensor that does not change the type of `x`."""
    return torch.as_tensor(number, device=x.device).to(x.dtype)


def _arithmetic(name: str, function: Callable[[Any, Any], Any]) -> None:
    def run(_: Attributes, a: Value, b: Value) -> Value:
        if isinstance(a, Tensor) and not isinstance(b, Tensor):
            b = _beside(a, b)
        elif isinstance(b, Tensor) and not isinstance(a, Tensor):
            a = _beside(b, a)
        return function(a, b)

    OPERATORS[name] = run


_arithmetic("Add", lambda a, b: a + b)
_arithmetic("Sub", lambda a, b: a - b)
_arithmetic("Mul", lambda a, b: a * b)
_arithmetic("Pow", lambda a, b: a**b)
_arithmetic("Mod", lambda a, b: a % b)
_arithmetic("Max", lambda a, b: torch.maximum(a, b) if isinstance(a, Tensor) else np.maximum(a, b))
_arithmetic("Div", lambda a, b: a // b if _whole(a) and _whole(b) else a / b)


def _whole(value: Value) -> bool:
    return not isinstance(value, Tensor) and np.issubdtype(np.asarray(value).dtype, np.integer)


@_operator("Clip")
def _clip(attributes: Attributes, x: Value, low: Value = None, high: Value = None) -> Value:
    low = attributes.get("min") if low is None else low
    high = attributes.get("max") if high is None else high
    if not isinstance(x, Tensor):
        return np.clip(x, low, high)
    x = x if low is None else torch.maximum(x, _beside(x, low))
    return x if high is None else torch.minimum(x, _beside(x, high))


@_operator("Shape")
def _shape(attributes: Attributes, x: Value) -> NDArray[np.int64]:
    return np.array(x.shape[attributes.get("start", 0) : attributes.get("end")], np.int64)


@_operator("ConstantOfShape")
def _constant_of_shape(attributes: Attributes, shape: NDArray[np.int64]) -> Value:
    return np.full(shape, attributes["fill"])


@_operator("LeakyRelu")
def _leaky_relu(attributes: Attributes, x: Tensor) -> Tensor:
    return functional.leaky_relu(x, attributes.get("alpha", 0.01))


@_operator("Elu")
def _elu(attributes: Attributes, x: Tensor) -> Tensor:
    return functional.elu(x, attributes.get("alpha", 1.0))


@_operator("PRelu")
def _prelu(_: Attributes, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


@_operator("HardSigmoid")
def _hard_sigmoid(attributes: Attributes, x: Tensor) -> Tensor:
    alpha, beta = float(attributes.get("alpha", 0.2)), float(attributes.get("beta", 0.5))
    return (x * alpha + beta).clamp(0, 1)


@_operator("Gelu")
def _gelu(attributes: Attributes, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=attributes.get("approximate", b"none").decode())


@_operator("Softmax")
def _softmax(attributes: Attributes, x: Tensor) -> Tensor:
    return x.softmax(attributes.get("axis", -1))


@_operator("Conv")
def _conv(attributes: Attributes, x: Tensor, weight: Tensor, bias: Value = None) -> Tensor:
    stride = attributes.get("strides", [1, 1])
    dilation = attributes.get("dilations", [1, 1])
    x = _padded(x, attributes, weight.shape[2:], 0.0)
    groups = attributes.get("group", 1)
    return functional.conv2d(x, weight, bias, stride, 0, dilation, groups)


@_operator("BatchNormalization")
def _batch_norm(
    attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor
) -> Tensor:
    eps = attributes.get("epsilon", 1e-5)
    return functional.batch_norm(x, mean, var, scale, bias, training=False, eps=eps)


@_operator("LayerNormalization")
def _layer_norm(attributes: Attributes, x: Tensor, scale: Tensor, bias: Value = None) -> Tensor:
    axis = attributes.get("axis", -1) % x.ndim
    return functional.layer_norm(x, x.shape[axis:], scale, bias, attributes.get("epsilon", 1e-5))


@_operator("LRN")
def _lrn(attributes: Attributes, x: Tensor) -> Tensor:
    given = {k: attributes[k] for k in ("alpha", "beta") if k in attributes}
    return functional.local_response_norm(
        x, attributes["size"], k=attributes.get("bias", 1), **given
    )


@_operator("MaxPool")
def _max_pool(attributes: Attributes, x: Tensor) -> Tensor:
    kernel = attributes["kernel_shape"]
    return functional.max_pool2d(
        _padded(x, attributes, kernel, -torch.inf),
        kernel,
        attributes.get("strides", [1, 1]),
        0,
        attributes.get("dilations", [1, 1]),
        bool(attributes.get("ceil_mode", 0)),
    )


@_operator("AveragePool")
def _average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    kernel, stride = attributes["kernel_shape"], attributes.get("strides", [1, 1])
    ceil = bool(attributes.get("ceil_mode", 0))
    total = functional.avg_pool2d(_padded(x, attributes, kernel, 0.0), kernel, stride, 0, ceil)
    if attributes.get("count_include_pad", 0) or not any(_pads(x, attributes, kernel)):
        return total
    ones = _padded(torch.ones_like(x[:1, :1]), attributes, kernel, 0.0)
    return total / functional.avg_pool2d(ones, kernel, stride, 0, ceil)


def _padded(x: Tensor, attributes: Attributes, kernel: object, value: float) -> Tensor:
    top, left, bottom, right = _pads(x, attributes, kernel)
    if not any((top, left, bottom, right)):
        return x
    return functional.pad(x, (left, right, top, bottom), value=value)


def _pads(x: Tensor, attributes: Attributes, kernel: Any) -> list[int]:
    auto = attributes.get("auto_pad", b"NOTSET").decode()
    if auto in ("NOTSET", "VALID"):
        return list(attributes.get("pads", [0, 0, 0, 0]))
    starts, ends = [], []
    for axis in (0, 1):
        stride = attributes.get("strides", [1, 1])[axis]
        reach = (kernel[axis] - 1) * attributes.get("dilations", [1, 1])[axis] + 1
        size = x.shape[2 + axis]
        need = max((-(-size // stride) - 1) * stride + reach - size, 0)
        first = need // 2 if auto == "SAME_UPPER" else need - need // 2
        starts.append(first)
        ends.append(need - first)
    return starts + ends


@_operator("Pad")
def _pad(
    attributes: Attributes, x: Tensor, pads: Value = None, value: Value = None, axes: Value = None
) -> Tensor:
    given = [int(p) for p in (attributes["pads"] if pads is None else pads)]
    where = range(x.ndim) if axes is None else [int(a) % x.ndim for a in axes]
    both = {axis: (given[i], given[i + len(given) // 2]) for i, axis in enumerate(where)}
    flat = [p for axis in reversed(range(x.ndim)) for p in both.get(axis, (0, 0))]
    mode = attributes.get("mode", b"constant").decode()
    if mode != "constant":
        return functional.pad(x, flat[:4], mode="replicate" if mode == "edge" else mode)
    return functional.pad(x, flat, value=0.0 if value is None else float(value))


@_operator("ReduceMean")
def _reduce_mean(attributes: Attributes, x: Tensor, axes: Value = None) -> Tensor:
    where = attributes.get("axes") if axes is None else axes.tolist()
    return x.mean(where or tuple(range(x.ndim)), keepdim=bool(attributes.get("keepdims", 1)))


@_operator("Gemm")
def _gemm(attributes: Attributes, a: Tensor, b: Tensor, c: Value = None) -> Tensor:
    a = a.T if attributes.get("transA", 0) else a
    b = b.T if attributes.get("transB", 0) else b
    product = float(attributes.get("alpha", 1.0)) * (a @ b)
    return product if c is None else product + float(attributes.get("beta", 1.0)) * c


@_operator("Flatten")
def _flatten(attributes: Attributes, x: Tensor) -> Tensor:
    axis = attributes.get("axis", 1)
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


@_operator("Reshape")
def _reshape(_: Attributes, x: Value, shape: NDArray[np.int64]) -> Value:
    sizes = [int(s) or x.shape[i] for i, s in enumerate(shape)]
    if sizes[0] == 1 and isinstance(x, Tensor):
        sizes[0] = x.shape[0]  # exported for one image; the rows of a batch are independent
    return x.reshape(sizes)


@_operator("Transpose")
def _transpose(attributes: Attributes, x: Value) -> Value:
    order = attributes.get("perm", list(reversed(range(x.ndim))))
    return x.permute(order) if isinstance(x, Tensor) else x.transpose(order)


@_operator("Concat")
def _concat(attributes: Attributes, *values: Value) -> Value:
    if all(isinstance(v, Tensor) for v in values):
        return torch.cat(values, attributes["axis"])
    return np.concatenate([np.atleast_1d(np.asarray(v)) for v in values], attributes["axis"])


@_operator("Gather")
def _gather(attributes: Attributes, x: Value, indices: Value) -> Value:
    axis = attributes.get("axis", 0)
    if not isinstance(x, Tensor):
        return np.take(x, indices, axis)
    if np.ndim(indices) == 0:
        return x.select(axis, int(indices))
    axis, rows = axis % x.ndim, torch.as_tensor(indices, device=x.device)
    rows = torch.where(rows < 0, rows + x.shape[axis], rows)
    found = x.index_select(axis, rows.reshape(-1))
    return found.reshape(*x.shape[:axis], *rows.shape, *x.shape[axis + 1 :])


@_operator("Slice")
def _slice(
    attributes: Attributes,
    x: Value,
    starts: Value = None,
    ends: Value = None,
    axes: Value = None,
    steps: Value = None,
) -> Value:
    first = attributes["starts"] if starts is None else starts
    last = attributes["ends"] if ends is None else ends
    where = attributes.get("axes") if axes is None else axes
    index = [slice(None)] * x.ndim
    for k in range(len(first)):
        axis = k if where is None else int(where[k])
        index[axis] = slice(int(first[k]), int(last[k]), None if steps is None else int(steps[k]))
    return x[tuple(index)]


@_operator("Split")
def _split(attributes: Attributes, x: Tensor, sizes: Value = None) -> tuple[Tensor, ...]:
    axis = attributes.get("axis", 0)
    given = attributes.get("split") if sizes is None else sizes.tolist()
    return torch.split(x, given or x.shape[axis] // attributes["n_outputs"], axis)


@_operator("Unsqueeze")
def _unsqueeze(attributes: Attributes, x: Value, axes: Value = None) -> Value:
    for axis in sorted(int(a) for a in (attributes["axes"] if axes is None else axes)):
        x = x.unsqueeze(axis) if isinstance(x, Tensor) else np.expand_dims(x, axis)
    return x


@_operator("Squeeze")
def _squeeze(attributes: Attributes, x: Value, axes: Value = None) -> Value:
    where = attributes.get("axes") if axes is None else axes
    sides = range(x.ndim) if where is None else (int(a) % x.ndim for a in where)
    for axis in sorted(sides, reverse=True):
        x = x.squeeze(axis) if x.shape[axis] == 1 else x
    return x


_INTEGERS: dict[int, Any] = {6: np.int64, 7: np.int64, 9: np.bool_}  # TensorProto.DataType


@_operator("Cast")
def _cast(attributes: Attributes, x: Value) -> Value:
    if isinstance(x, Tensor):
        return x  # numbers keep the network's precision
    return np.asarray(x).astype(_INTEGERS.get(attributes["to"], np.float64))
