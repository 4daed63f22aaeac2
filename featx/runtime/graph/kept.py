"""A lowered network kept for later runs: its graph as JSON text, and its constants.

Exporting and rewriting a network takes longer than embedding a few pictures. The file is data: it
names operators of ATen and holds tensors, and no code of it runs.
"""

from __future__ import annotations

import io
import json
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from featx.files import scratch_folder
from featx.runtime.native import keep, payload
from featx.typing import JsonObject

_FUNCTIONS = {
    f.__name__: f
    for f in (operator.getitem, operator.add, operator.mul, operator.sub, operator.floordiv)
}
_NAMED = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}


def keep_graph(graph: fx.GraphModule, path: Path) -> None:
    """Write a graph, whole or not at all.

    Parameters
    ----------
    graph
        Of operators of ATen and constants, from `featx.runtime.graph.lowering.lowered`.

    Raises
    ------
    OSError
        If the folder cannot be written.
    ValueError
        If the graph holds what cannot be written.
    """
    nodes = [_written(node) for node in graph.graph.nodes]
    constants = {
        str(node.target): operator.attrgetter(str(node.target))(graph).detach()
        for node in graph.graph.nodes
        if node.op == "get_attr"
    }
    with scratch_folder() as folder:
        file = folder / "graph"
        torch.save({"nodes": json.dumps(nodes), "constants": constants}, file)
        keep(file, path)


def read_graph(path: Path) -> fx.GraphModule:
    """Read what `keep_graph` wrote, from a file that `is_sound` has looked at.

    Raises
    ------
    Exception
        Where it is none of this version.
    """
    found = torch.load(io.BytesIO(payload(path)), weights_only=True)
    root, graph, nodes = nn.Module(), fx.Graph(), dict[str, fx.Node]()
    names: dict[str, str] = {}
    for k, (name, value) in enumerate(found["constants"].items()):
        names[name] = f"constant_{k}"
        root.register_buffer(names[name], _tensor(value))
    for written in json.loads(found["nodes"]):
        nodes[written["name"]] = _add(graph, written, nodes, names)
    return fx.GraphModule(root, graph).eval()


def _tensor(value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"a constant is of type {type(value).__name__}")
    return value


def _written(node: fx.Node) -> JsonObject:
    return {
        "name": node.name,
        "op": node.op,
        "target": _name_of(node),
        "args": [_plain(a) for a in node.args],
        "kwargs": {k: _plain(v) for k, v in node.kwargs.items()},
    }


def _name_of(node: fx.Node) -> str:
    target = node.target
    if node.op != "call_function":
        return str(target)
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        return f"aten.{target._opname}.{target._overloadname}"
    name = str(getattr(target, "__name__", target))
    if _FUNCTIONS.get(name) is not target:
        raise ValueError(f"{name} cannot be kept")
    return name


def _function(name: str) -> Any:
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    space, packet, overload = name.split(".")
    if space != "aten":
        raise ValueError(f"{name} is not an operator of ATen")
    return getattr(getattr(torch.ops.aten, packet), overload)


def _plain(value: object) -> Any:
    """Turn an argument of an operator into JSON."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, list | tuple):
        return {type(value).__name__.removeprefix("immutable_"): [_plain(v) for v in value]}
    for kind, known in _NAMED.items():
        if isinstance(value, known):
            return {kind: str(value).removeprefix("torch.")}
    if isinstance(value, torch.device) and value.type == "cpu":
        return {"device": "cpu"}
    raise ValueError(f"an argument of type {type(value).__name__} cannot be kept")


def _argument(value: object, nodes: Mapping[str, fx.Node]) -> Any:
    """Turn JSON back into an argument."""
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "node":
        return nodes[held]
    if kind in ("list", "tuple"):
        made = [_argument(v, nodes) for v in held]
        return made if kind == "list" else tuple(made)
    if kind == "device":
        return torch.device("cpu")
    found = getattr(torch, held)
    if not isinstance(found, _NAMED[kind]):
        raise ValueError(f"{held} is no {kind}")
    return found


def _add(
    graph: fx.Graph,
    written: Mapping[str, Any],
    nodes: Mapping[str, fx.Node],
    names: Mapping[str, str],
) -> fx.Node:
    op, target = str(written["op"]), str(written["target"])
    if op == "placeholder":
        return graph.placeholder(target)
    if op == "get_attr":
        return graph.get_attr(names[target])
    args = tuple(_argument(a, nodes) for a in written["args"])
    if op == "output":
        end: fx.Node = graph.output(args[0])
        return end
    if op != "call_function":
        raise ValueError(f"{op} is not a step of a graph")
    kwargs = {k: _argument(v, nodes) for k, v in written["kwargs"].items()}
    added: fx.Node = graph.call_function(_function(target), args, kwargs)
    return added
