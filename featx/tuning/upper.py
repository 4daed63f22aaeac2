"""The layers above a map as a module of their own, which shares its weights with the network."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from featx.backbones.backbone import Backbone
from featx.backbones.reader import TapReader
from featx.backbones.taps import PRE_LOGITS, Tap, pool_map
from featx.errors import BackboneError, UnknownLayerError, words_of
from featx.preprocess import Preprocess

_TOLERANCE = 1e-4  # relative, of float32 features computed in one piece and in two


class Upper(nn.Module):
    """From a map to the vector of the network's default tap.

    Parameters
    ----------
    graph
        The layers above; its parameters are the network's own.
    tap
        Where the vector is read.
    map_nhwc, tap_nhwc
        Whether the network keeps channels last, in the map and at the tap.
    """

    def __init__(self, graph: fx.GraphModule, tap: Tap, map_nhwc: bool, tap_nhwc: bool) -> None:
        super().__init__()
        self.graph = graph
        self.tap, self.map_nhwc, self.tap_nhwc = tap, map_nhwc, tap_nhwc

    def forward(self, maps: Tensor) -> Tensor:
        """Give float32 vectors (n, n_features) of maps (n, channels, height, width)."""
        value = self.graph(maps.permute(0, 2, 3, 1) if self.map_nhwc else maps)
        return pool_map(value, self.tap.pool, self.tap_nhwc)


@dataclass(frozen=True, eq=False)
class CutNetwork:
    """A network cut at a layer.

    Parameters
    ----------
    net
        The whole network, whose parameters the others share.
    upper
        What is trained.
    map
        (channels, height, width).
    n_features
        Length of the vector above.
    trained
        Names, as the network has them, of the parameters above the map.
    multiply_adds
        Of one image in the layers above, and in the whole network up to the vector.
    """

    net: nn.Module
    upper: Upper
    map: tuple[int, int, int]
    n_features: int
    trained: tuple[str, ...]
    multiply_adds: tuple[int, int]


class _PreLogits(nn.Module):
    """A timm network up to the vector before its classifier."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.net.forward_features(pixels)
        vectors: Tensor = self.net.forward_head(features, pre_logits=True)
        return vectors


class _Tracer(fx.Tracer):
    """Keep the layers where the network is cut, and all that have no layers inside, in one piece.

    A layer of its own code (padding that depends on the size) is then called, not traced.
    """

    def __init__(self, whole: set[str]) -> None:
        super().__init__()
        self._whole = whole

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Tell whether a module stays in one piece."""
        return module_qualified_name in self._whole or not any(True for _ in m.children())


def cut_network(backbone: Backbone, layer: str, preprocess: Preprocess) -> CutNetwork:
    """Cut a network at the output of `layer`, and check that both halves give what the whole gives.

    Parameters
    ----------
    backbone
        Its parameters above the map will be trained in place.
    layer
        The module whose map is the input of what is trained.

    Raises
    ------
    UnknownLayerError
        If there is no such layer, it never runs, or nothing but the classifier lies above it.
    BackboneError
        If the layer gives no map, runs several times or lies on one of several branches, or the
        network's code cannot be cut.
    """
    taps = backbone.select([layer], "none")
    if len(taps) != 1:
        names = ", ".join(tap.layer for tap in taps[:4])
        raise UnknownLayerError(f"tune cuts at one layer, and {layer!r} names several: {names}")
    layer, default = taps[0].layer, backbone.default
    reader = backbone.reader((taps[0], default), preprocess)
    shape = reader.measured_taps[0].map
    assert shape is not None
    graph, prefix = _upper_graph(reader.net, layer, default, backbone.name)
    trained = tuple(name.removeprefix(prefix) for name, _ in graph.named_parameters())
    if not trained:
        raise UnknownLayerError(
            f"layer {layer} of {backbone.name} is the last: no layer above it has weights but the "
            "classifier, which `featx fit` trains; choose one further down"
        )
    nhwc = reader.nhwc
    upper = Upper(graph, default, nhwc[0], nhwc[1])
    counted = _verify(reader, upper, shape, layer)
    return CutNetwork(reader.net, upper, shape, reader.n_features[1], trained, counted)


def _upper_graph(
    net: nn.Module, layer: str, default: Tap, network: str
) -> tuple[fx.GraphModule, str]:
    """Trace the network, begin at the layer and end at the default tap."""
    headless = default.layer == PRE_LOGITS and PRE_LOGITS not in dict(net.named_children())
    root, prefix = (_PreLogits(net), "net.") if headless else (net, "")
    names = {prefix + layer} | (set() if headless or not default.layer else {default.layer})
    try:
        graph = _Tracer(names).trace(root)
    except Exception as error:  # the network's code fails in its own way on other values
        raise BackboneError(
            f"{network} cannot be cut at {layer}: its code cannot be traced ({words_of(error)})"
        ) from None
    start, end = _only(graph, prefix + layer, network), _end(graph, headless, default, network)
    with graph.inserting_before(start):
        begin = graph.placeholder("map")
    start.replace_all_uses_with(begin)
    if end is start:
        end = begin
    _keep_in_place(graph)
    output = next(node for node in graph.nodes if node.op == "output")
    output.args = (end,)
    for node in reversed(list(graph.nodes)):
        if node.users or node is output or node is begin:
            continue
        graph.erase_node(node)
    if any(node.op == "placeholder" and node is not begin for node in graph.nodes):
        raise BackboneError(
            f"layer {layer} of {network} lies on one of several branches: what is above also takes "
            "what lies beside it; choose the layer where they meet"
        )
    return fx.GraphModule(root, graph), prefix


def _keep_in_place(graph: fx.Graph) -> None:
    """Let what changes a value in place give a new one: a map must stay as it was read."""
    plain = {operator.iadd: operator.add, operator.imul: operator.mul}
    for node in graph.nodes:
        if node.op == "call_function" and node.target in plain:
            node.target = plain[node.target]


def _only(graph: fx.Graph, name: str, network: str) -> fx.Node:
    found = [node for node in graph.nodes if node.op == "call_module" and node.target == name]
    if len(found) != 1:
        how = "never runs" if not found else f"runs {len(found)} times"
        raise BackboneError(f"layer {name} of {network} {how}; choose one that runs once")
    one: fx.Node = found[0]
    return one


def _end(graph: fx.Graph, headless: bool, default: Tap, network: str) -> fx.Node:
    """The node whose value the default tap reads."""
    if headless or not default.layer:
        output = next(node for node in graph.nodes if node.op == "output")
        value: Any = output.args[0]
    else:
        node = _only(graph, default.layer, network)
        value = node.args[0] if default.side == "input" else node
    if not isinstance(value, fx.Node):
        raise BackboneError(f"{network} gives several values, and tune trains those that give one")
    return value


def _verify(
    reader: TapReader, upper: Upper, shape: tuple[int, int, int], layer: str
) -> tuple[int, int]:
    """Compare the two halves with the whole on one picture, and count multiply-adds."""
    generator = torch.Generator().manual_seed(0)
    size = (1, *reader.preprocess.input_size, 3)
    picture = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    upper.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        maps, wanted = reader(picture)
    whole = counter.get_total_flops() // 2
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        found = upper(maps.reshape(1, *shape))
    above = counter.get_total_flops() // 2
    error = float((found - wanted).abs().max()) / max(float(wanted.abs().max()), 1e-12)
    if not math.isfinite(error) or error > _TOLERANCE:
        raise BackboneError(
            f"{reader.network} cut at {layer} gives other features than the whole network "
            f"(relative error {error:.1e}); choose another layer"
        )
    return int(above), int(whole)
