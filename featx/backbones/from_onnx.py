"""ONNX files as torch modules: each node is a layer that can be read."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from featx.backbones.onnx_ops import OPERATORS, Value
from featx.backbones.recipe import Recipe, check_channels
from featx.backbones.taps import Tap
from featx.backbones.weights import digest_state
from featx.errors import BackboneError, MissingExtraError, UnknownBackboneError, words_of
from featx.preprocess import Preprocess

_POOLS = ("GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool")
# What may follow a classifier; of a convolution of classes, also a pooling.
_SHAPING = ("Flatten", "Reshape", "Squeeze", "Identity", "Dropout", "Cast")
_SCALING = ("Softmax", "Sigmoid", "Add", "Sub", "Mul", "Div")
_POOLING = ("GlobalAveragePool", "AveragePool", "ReduceMean", "Relu")
_IMAGENET = (1000, 1001, 11821, 21841, 21843)  # classes: more than channels in small networks
_CROP_PCT = 0.875
_WHOLE: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
_SAYS_WHOLE = "take pixels from 0 to 255 (uint8 in the file): no mean is subtracted"
_SAYS_NOTHING = (
    "do not state their preprocessing: the usual one of ImageNet networks is assumed; change it by "
    "--mean, --std, --crop-pct and --interpolation"
)


def knows(name: str) -> bool:
    """True if a name belongs to an ONNX file."""
    return name.endswith(".onnx")


_Step: TypeAlias = tuple[str, tuple[str, ...], tuple[str, ...]]
"""A node's name, and the values that it takes and gives."""


class Node(nn.Module):
    """One node of the graph."""

    def __init__(self, kind: str, attributes: dict[str, Any]) -> None:
        super().__init__()
        self.kind = kind
        self.attributes = attributes

    def extra_repr(self) -> str:
        """Name the operator where the module is printed."""
        return self.kind

    def forward(self, *values: Value) -> Value:
        """Compute the operator."""
        return OPERATORS[self.kind](self.attributes, *values)


class OnnxNet(nn.Module):
    """A graph of ONNX, node after node.

    Floating-point constants are parameters, so that they follow ``.to``; integers and single
    numbers stay arrays.
    """

    def __init__(self, graph: Any, where: str) -> None:
        super().__init__()
        from onnx import numpy_helper

        self.arrays: dict[str, Any] = {}
        self._parameters_of: dict[str, str] = {}
        for constant in graph.initializer:
            self._keep(constant.name, numpy_helper.to_array(constant))
        self._steps: list[_Step] = []
        for k, node in enumerate(graph.node):
            self._add(k, node, where)
        self._input = next(i.name for i in graph.input if not self._is_constant(i.name))
        self._outputs = tuple(output.name for output in graph.output)

    def ends_in_classifier(self) -> bool:
        """True if an output comes from a linear layer, or from a 1x1 convolution to classes."""
        made = {value: step for step in self._steps for value in step[2]}
        return any(self._is_of_classes(value, made) for value in self._outputs)

    def _is_of_classes(self, value: str, made: dict[str, _Step]) -> bool:
        """Go back through what only scales, shapes or pools, to the layer that computes."""
        linear_only = True
        while value in made:
            name, inputs, _ = made[value]
            node: Any = self._modules[name]
            if node.kind in ("Gemm", "MatMul"):
                return linear_only
            if node.kind == "Conv":
                shape = self._shape_of(inputs[1])
                n_classes, kernel = shape[0], tuple(shape[2:])
                return kernel == (1, 1) and (n_classes < shape[1] or n_classes in _IMAGENET)
            computed = [v for v in inputs if v in made]
            shaping = node.kind in _SHAPING
            if not shaping and (node.kind not in _SCALING + _POOLING or len(computed) != 1):
                return False
            linear_only = linear_only and node.kind not in _POOLING
            value = inputs[0] if shaping else computed[0]
        return False

    def _shape_of(self, constant: str) -> tuple[int, ...]:
        if constant in self._parameters_of:
            return tuple(getattr(self, self._parameters_of[constant]).shape)
        return (0, 0, 0, 0)  # computed in the graph

    def _is_constant(self, name: str) -> bool:
        return name in self.arrays or name in self._parameters_of

    def _keep(self, name: str, array: Any) -> None:
        # A single number may be part of a shape's computation, which must not meet a tensor.
        if array.ndim == 0 or not np.issubdtype(array.dtype, np.floating):
            self.arrays[name] = np.array(array)
            return
        own = _safe(name, {n for n, _ in self.named_parameters()}, "constant")
        value = torch.from_numpy(array.astype(np.float32))
        self.register_parameter(own, nn.Parameter(value, requires_grad=False))
        self._parameters_of[name] = own

    def _add(self, k: int, node: Any, where: str) -> None:
        from onnx import helper, numpy_helper

        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant":
            value = attributes.get("value")
            array = numpy_helper.to_array(value) if value is not None else _scalar(attributes)
            self._keep(node.output[0], array)
            return
        if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
            raise BackboneError(
                f"{where} uses the operator {node.domain or 'ai.onnx'}.{node.op_type}, which featx "
                "does not know; load the network through file:module.py:factory instead"
            )
        name = _safe(node.name or f"{node.op_type}_{k}", set(self._modules), node.op_type)
        attributes["n_outputs"] = len(node.output)
        if node.op_type == "ConstantOfShape":
            fill = attributes.get("value")
            attributes["fill"] = 0.0 if fill is None else numpy_helper.to_array(fill)[0]
        if node.op_type == "ReduceMean" and len(node.input) > 1:
            attributes["axes"] = self.arrays[node.input[1]].tolist()
        self.add_module(name, Node(node.op_type, attributes))
        self._steps.append((name, tuple(node.input), tuple(node.output)))

    def forward(self, x: Tensor) -> Tensor:
        """Run the graph; float32 (n, channels, height, width) in, its first output out."""
        values: dict[str, Value] = {"": None, self._input: x, **self.arrays}
        values |= {name: getattr(self, own) for name, own in self._parameters_of.items()}
        for name, inputs, outputs in self._steps:
            found = self._modules[name](*(values[i] for i in inputs))  # type: ignore[misc]
            values.update(zip(outputs, found if isinstance(found, tuple) else (found,)))  # noqa: B905
        result: Tensor = values[self._outputs[0]]
        return result


def _scalar(attributes: dict[str, Any]) -> Any:
    """The value of a Constant that is written as a plain number or list."""
    (value,) = attributes.values()
    kind = np.float32 if np.asarray(value).dtype.kind == "f" else np.int64
    return np.asarray(value, kind)


def _safe(name: str, taken: set[str], kind: str) -> str:
    plain = re.sub(r"\W+", "_", name).strip("_") or kind
    if plain not in taken and not hasattr(nn.Module, plain):
        return plain
    return next(f"{plain}_{k}" for k in range(1, len(taken) + 2) if f"{plain}_{k}" not in taken)


def recipe(name: str) -> Recipe:
    """The network that an ONNX file holds, weights and all.

    The file says its input size but nothing of its preprocessing: that of most ImageNet networks
    is taken, and can be overridden; a network of whole pixels (uint8) gets them as they are.
    """
    path = Path(name)
    graph = _read(path)
    channels, size, whole = _input(graph, name)
    made = OnnxNet(graph, str(path))

    def build(num_classes: int | None = None, in_chans: int | None = None) -> nn.Module:
        if in_chans not in (None, channels):
            raise BackboneError(f"{name} takes {channels} channels, not {in_chans}")
        return made

    return Recipe(
        path.name,
        "onnx",
        build,
        Preprocess.from_crop_pct(size, _CROP_PCT, **(_WHOLE if whole else {})),
        lambda net: default_tap(made),
        own_weights=str(path),
        own_digest=_digest(graph, made),
        in_chans=channels,
        notes=(_SAYS_WHOLE if whole else _SAYS_NOTHING,),
    )


def _digest(graph: Any, net: OnnxNet) -> str:
    """SHA-256 over the weights, and over the nodes: here the file is the architecture too."""
    total = hashlib.sha256(digest_state(net.state_dict()).encode())
    for name, array in net.arrays.items():
        total.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    for node in graph.node:
        total.update(node.SerializeToString(deterministic=True))
    return total.hexdigest()


def _read(path: Path) -> Any:
    try:
        import onnx
    except ImportError:
        raise MissingExtraError(
            f"{path} is an ONNX file; reading it needs the package onnx: pip install 'featx[onnx]'"
        ) from None
    if not path.is_file():
        raise UnknownBackboneError(f"no ONNX file {path}")
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # protobuf's own errors, or a missing file of external data
        reason = words_of(error, 160)
        raise BackboneError(f"{path} cannot be read as ONNX: {reason}") from None
    if not graph.node or not graph.output:  # of an empty file, too
        raise BackboneError(f"{path} holds no network: {len(graph.node)} operators; fetch it again")
    return graph


def _input(graph: Any, name: str) -> tuple[int, tuple[int, int], bool]:
    """Channels, height and width, and whether the network takes whole pixels."""
    from onnx import TensorProto as Types

    constants = {c.name for c in graph.initializer}
    inputs = [i for i in graph.input if i.name not in constants]
    shape = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim] if inputs else []
    if len(inputs) != 1 or len(shape) != 4:
        raise BackboneError(f"{name} must have one input of shape (n, channels, height, width)")
    if shape[3] in (1, 3) and shape[1] not in (1, 3):
        raise BackboneError(
            f"{name} takes (n, height, width, channels); featx feeds (n, channels, height, width)"
        )
    kind = inputs[0].type.tensor_type.elem_type
    if kind not in (0, Types.FLOAT, Types.FLOAT16, Types.BFLOAT16, Types.DOUBLE, Types.UINT8):
        raise BackboneError(
            f"{name} takes {Types.DataType.Name(kind).lower()}; featx feeds float32 or uint8"
        )
    size = (shape[2] or 224, shape[3] or 224)
    return check_channels(shape[1] or 3), size, kind == Types.UINT8


def default_tap(net: OnnxNet) -> Tap:
    """The last pooling before the classifier, or else what the classifier receives.

    The classifier is the last Gemm or MatMul, or the last Conv where there is neither; a network
    that does not end in one gives features, and its output is read. A pooling that is followed by
    a convolution is not the last one.
    """
    if not net.ends_in_classifier():
        return Tap.at("")
    nodes = [(name, m) for name, m in net.named_children() if isinstance(m, Node)]
    kinds = [m.kind for _, m in nodes]
    linear = [k for k, kind in enumerate(kinds) if kind in ("Gemm", "MatMul")]
    convolutions = [k for k, kind in enumerate(kinds) if kind == "Conv"]
    if not linear:
        return Tap.at(nodes[convolutions[-1]][0], "input") if convolutions else Tap.at("")
    first = max((k for k in convolutions if k < linear[-1]), default=-1) + 1
    pools = [name for name, m in nodes[first : linear[-1]] if _pools(m)]
    return Tap.at(pools[-1]) if pools else Tap.at(nodes[linear[-1]][0], "input")


def _pools(node: Node) -> bool:
    if node.kind == "ReduceMean":
        return sorted(node.attributes.get("axes", ())) in ([2, 3], [-2, -1])
    return node.kind in _POOLS
