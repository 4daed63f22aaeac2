"""The whole model as one module: turns, network, merging, head and decision; and that in ONNX."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featx.backbones import load_backbone
from featx.backbones.taps import Tap
from featx.errors import BackboneError, ModelError, words_of
from featx.exporting.heads import head_module
from featx.exporting.layers import Distance
from featx.heads.linear import LinearForm, linear_form
from featx.model import Model
from featx.model.likeness import Likeness
from featx.preprocess import Preprocess, View
from featx.runtime.compiling import quiet
from featx.typing import JsonObject

INPUT = "images"
_SWAPPED = ("transpose", "rot90", "rot270", "transverse")
_MOST_BYTES = 2**31 - 1  # of one protobuf message
_SAME_VALUES = ("Flatten", "Reshape", "Squeeze", "Identity", "Concat", "Cast")
_PLACES: dict[tuple[int, ...], str] = {(2, 3): "nchw,kc->nkhw", (1, 2): "nhwc,kc->nkhw"}


class WholeModel(nn.Module):
    """From the pixels of cropped pictures to what `featx predict` says of them.

    Parameters
    ----------
    model
        Whose head, views and thresholds are taken.
    reader
        Of the model's network, in float32, with the model's taps alone, in their order.
    near
        Rows of the training, by which a picture is unfamiliar; None where they are not known.
    """

    def __init__(self, model: Model, reader: nn.Module, near: Likeness | None = None) -> None:
        super().__init__()
        self.reader = reader
        self.head = head_module(model.estimator, model.classes)
        self.turns = [view.turn for view in _views(model)]
        self.rounds = model.spec.dtype == "float16"
        self.concat = model.spec.view_merge == "concat"
        self.task = model.task
        self.decision = Decision(model.thresholds, model.classes)
        self.distance = None if near is None else Distance(rows=near.unit)
        self.limit = 0.0 if near is None else near.limit

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Take uint8 (n, height, width, 3); give what `output_names` lists."""
        features = self._features(images)
        found: Tensor = self.head(features)
        last: tuple[Tensor, ...] = (features,)
        if self.distance is not None:
            distance = self.distance(features)
            last = (features, distance, distance > self.limit)
        if self.task == "regression":
            return (found[:, 0], *last)
        if self.task == "multilabel":
            return (found, found > 0.5, *last)
        return (found, *self.decision(found), *last)

    def _features(self, images: Tensor) -> Tensor:
        n = len(self.turns)
        turned = [_turned(images, turn) for turn in self.turns]
        pixels = torch.stack(turned, 1).flatten(0, 1) if n > 1 else turned[0]
        vectors = torch.cat([self._merged(tap, n) for tap in self.reader(pixels)], 1)
        return vectors.half().float() if self.rounds else vectors

    def _merged(self, vectors: Tensor, n: int) -> Tensor:
        if n == 1:
            return vectors
        views = vectors.reshape(-1, n, vectors.shape[1])
        return views.flatten(1) if self.concat else views.mean(1)


class Decision(nn.Module):
    """The label of each row and, with thresholds, whether it is abstained from."""

    def __init__(self, thresholds: JsonObject, classes: list[str]) -> None:
        super().__init__()
        self.by = thresholds.get("by")
        self.bars = nn.Buffer(torch.tensor(_bars(thresholds, classes)))
        self.at = classes.index(thresholds["positive"]) if self.by == "cost" else 0

    def forward(self, p: Tensor) -> tuple[Tensor, ...]:
        """Take (n, n_classes); give int64 (n,) and, unless thresholds are absent, bool (n,)."""
        label, highest = p.argmax(1), p.amax(1)
        if self.by is None:
            return (label,)
        if self.by == "cost":
            called = p[:, self.at] >= self.bars[self.at]
            label = torch.where(called, self.at, 1 - self.at)
            return label, torch.zeros_like(called)
        return label, highest < self.bars[label]


def _bars(thresholds: JsonObject, classes: list[str]) -> list[float]:
    """Give the probability from which each class is answered; infinity where it never is."""
    by = thresholds.get("by")
    if by == "precision":
        known = [thresholds["classes"][name] for name in classes]
        return [math.inf if c is None else float(c["threshold"]) for c in known]
    bar = {"abstain": "confidence", "cost": "threshold"}.get(by or "")
    value = 0.0 if bar is None else thresholds[bar]
    return [math.inf if value is None else float(value)] * len(classes)


def output_names(model: Model, near: Likeness | None) -> list[str]:
    """Name the outputs of the graph, in their order.

    ``label`` is the number of a class, or for several labels a row whether it has each.
    """
    last = ["features", *([] if near is None else ["distance", "unfamiliar"])]
    if not model.classes:
        return ["value", *last]
    return ["probabilities", "label", *(["abstained"] if model.thresholds else []), *last]


def require_exportable(model: Model) -> None:
    """Refuse, before any network is loaded, what has no place in one graph.

    Raises
    ------
    ModelError
        For views that are not turns, several views kept apart, a head without probabilities, or one
        without a form in ONNX.
    """
    if model.classes and not hasattr(model.estimator, "predict_proba"):
        raise ModelError(f"{model.name} gives no probabilities, which the graph is to give")
    if model.spec.view_merge == "apart" and len(model.taps) > 1:
        raise ModelError(
            f"{model.name} cannot be exported: its head takes several views kept apart "
            f"({model.tap}); fit on one of them, or extract with --view-merge concat"
        )
    for view in _views(model):
        swapped = view.turn in _SWAPPED and len({*model.spec.preprocess["input_size"]}) > 1
        if view.position != "center" or view.scale != 1 or swapped:
            raise ModelError(
                f"{model.name} cannot be exported: view {view} shows other pixels than the graph "
                "takes; turns of the centre can be exported (hflip, flips, rotations, dihedral)"
            )
    head_module(model.estimator, model.classes)


def _views(model: Model) -> tuple[View, ...]:
    views = Preprocess.from_dict(model.spec.preprocess).views
    if model.spec.view_merge != "apart" or len(views) == 1:
        return views
    named = {f"{tap['name']}@{view}": view for tap in model.spec.taps for view in views}
    # The first tap of the first view bears the plain name of the tap.
    return (named.get(model.tap, views[0]),)


def _turned(images: Tensor, turn: str) -> Tensor:
    """Turn pictures as `featx.images` does."""
    if turn in _SWAPPED:
        images = images.transpose(1, 2)
    axes = [1] if turn in ("vflip", "rot180", "rot90", "transverse") else []
    axes += [2] if turn in ("hflip", "rot180", "rot270", "transverse") else []
    return images.flip(axes) if axes else images


def whole_model(
    model: Model, backbone: str, weights: str | None, near: Likeness | None = None
) -> WholeModel:
    """Load the network and put the head on it."""
    preprocess = Preprocess.from_dict(model.spec.preprocess)
    known = {tap["name"]: Tap.from_dict(tap) for tap in model.spec.taps}
    # Of a view kept apart, the tap is what stands before the @.
    taps = [known[n if n in known else n.rpartition("@")[0]] for n in model.taps]
    reader = load_backbone(backbone, weights=weights).reader(taps, preprocess)
    reader.n_features  # noqa: B018 - tries the network once, best before the trace
    return WholeModel(model, reader, near).eval()


def map_form(model: Model) -> LinearForm:
    """Give the head as weights that are the same for every picture.

    Raises
    ------
    ModelError
        If it has no such weights, or takes several views, taps or another pooling.
    """
    taps = [tap for tap in model.spec.taps if tap["name"] in model.taps]
    n_features = model.estimator.n_features_in_
    form = linear_form(model.estimator, np.ones(n_features, np.float32), model.classes)
    why = ""
    if len(model.taps) > 1 or len(_views(model)) > 1 or not taps or taps[0]["pool"] != "avg":
        why = "its features are not the mean of one map"
    elif form is None:
        why = "its head is not linear"
    elif form.held:
        why = f"its head depends on the {form.held[0]} of the whole vector"
    if form is None or why:
        raise ModelError(
            f"{model.name} cannot be exported with its map: {why}; leave out --map, and use "
            "`featx explain`"
        )
    return form


def add_map(proto: Any, form: LinearForm, name: str) -> None:
    """Add the output ``map``: what the head says at each place of the map that is averaged.

    Parameters
    ----------
    proto
        The graph; its output ``features`` is followed back to the mean over height and width.
    form
        Weights of the head.
    name
        How messages name the model.

    Raises
    ------
    ModelError
        If there is no such mean.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = proto.graph
    made = {output: node for node in graph.node for output in node.output}
    node = made.get("features")
    while node is not None and node.op_type in _SAME_VALUES and node.input[0] in made:
        node = made[node.input[0]]
    rule = _PLACES.get(_averaged(node, graph, made))
    if node is None or rule is None:
        found = "nothing" if node is None else node.op_type
        raise ModelError(
            f"{name} cannot be exported with its map: in the graph, {found} gives the features, "
            "and not a mean over places; leave out --map"
        )
    weights = numpy_helper.from_array(form.weights.astype(np.float32), "map_weights")
    graph.initializer.append(weights)
    graph.node.append(
        helper.make_node("Einsum", [node.input[0], "map_weights"], ["map"], equation=rule)
    )
    shape: list[str | int | None] = ["batch", len(form.weights), "rows", "columns"]
    graph.output.append(helper.make_tensor_value_info("map", TensorProto.FLOAT, shape))


def _averaged(node: Any, graph: Any, made: dict[str, Any]) -> tuple[int, ...]:
    """Give the axes over which a node takes the mean; empty where it takes none."""
    from onnx import helper, numpy_helper

    if node is None or node.op_type not in ("ReduceMean", "GlobalAveragePool", "AveragePool"):
        return ()
    if node.op_type != "ReduceMean":
        return (2, 3)
    given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    axes = given.get("axes")
    if axes is None and len(node.input) > 1:
        known = {one.name: one for one in graph.initializer}
        source = made.get(node.input[1])
        held = known.get(node.input[1]) or (source.attribute[0].t if source is not None else None)
        axes = [] if held is None else numpy_helper.to_array(held).ravel().tolist()
    return tuple(sorted(int(axis) % 4 for axis in axes or ()))


def to_onnx(whole: WholeModel, model: Model, outputs: list[str]) -> Any:
    """Translate the module, with a batch of any size.

    Parameters
    ----------
    outputs
        From `output_names`.

    Returns
    -------
    proto : ``onnx.ModelProto``

    Raises
    ------
    BackboneError
        If the network has an operator that cannot be translated.
    ModelError
        If the file would be larger than an ONNX file may be.
    """
    images = torch.zeros((2, *model.spec.preprocess["input_size"], 3), dtype=torch.uint8)
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                whole,
                (images,),
                dynamo=True,
                input_names=[INPUT],
                output_names=outputs,
                dynamic_shapes=({0: "batch"},),
                verbose=False,
            )
    except Exception as error:  # whatever tracing or translating raises
        reason = words_of(error)
        raise BackboneError(
            f"{model.spec.architecture} cannot be translated to ONNX: {reason}"
        ) from error
    assert program is not None
    proto = program.model_proto
    if proto.ByteSize() > _MOST_BYTES:
        raise ModelError(
            f"{model.name} needs {proto.ByteSize() / 1e9:.1f} GB in ONNX, and one file holds 2.1; "
            "fit a linear head (svm, logreg) or take a smaller network"
        )
    _anonymise(proto)
    return proto


def _anonymise(proto: Any) -> None:
    """Drop where in this machine's source code each node came from."""
    for owner in (proto.graph, *proto.functions):
        for node in owner.node:
            del node.metadata_props[:]
            node.doc_string = ""
        for value in owner.value_info:
            del value.metadata_props[:]
    del proto.graph.metadata_props[:]
