"""A graph whose network computes in 8 bits: calibrated on training rows, refused where it harms."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.cache.cache import Cache, open_cache
from featx.errors import FeatxError, ModelError
from featx.evaluation.pairing import compare_paired
from featx.exporting.graph import INPUT
from featx.files import scratch_folder, size_text
from featx.images import decode, draw_pixels, policy_of
from featx.images.pages import page_of_row
from featx.model import Model
from featx.model.likeness import cache_beside, row_labels
from featx.model.references import image_reader
from featx.preprocess import Preprocess, View
from featx.runtime.compiling import quiet
from featx.typing import RowValues

LEAST_COSINE = 0.99
"""Least median cosine of the features in 8 bits and in float32."""
MOST_CHANGED = 0.02
"""Largest share of answers that may change."""
_N_CALIBRATION = 128
_N_COMPARED = 256
_FEWEST = 20
_BATCH = 16
_OPERATORS = ("Conv", "Gemm", "MatMul", "Add", "MaxPool")

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Int8Figures:
    """Costs and gains of 8 bits, measured beside the graph in float32.

    Parameters
    ----------
    n_calibration, n_compared
        Training rows whose pictures set the scales, and other rows of the cache on which both
        graphs were run.
    held_out
        Whether the head saw none of the compared rows; else the loss may be larger on new pictures.
    cosine
        Median of the cosines of the features.
    changed
        Share of the answers that differ.
    accuracy, loss
        Of the graph in 8 bits, and how much lower that is than in float32, each on the compared
        rows; the loss with its paired 95 % interval.
    n_bytes_float, speed
        Size of the file in float32; how many times as fast the graph in 8 bits is, by ONNX Runtime
        on this machine, the two in turn.
    """

    n_calibration: int
    n_compared: int
    held_out: bool
    cosine: float
    changed: float
    accuracy: float
    loss: dict[str, float]
    n_bytes_float: int
    speed: float

    def __str__(self) -> str:
        rows = "held-out rows" if self.held_out else "rows that the head has seen"
        low, high = self.loss["low"], self.loss["high"]
        return (
            f"  int8: {size_text(self.n_bytes_float)} before, {self.speed:.2f} times as fast as "
            f"float32 on this machine; calibrated on {self.n_calibration} training rows\n"
            f"  on {self.n_compared} {rows}: median cosine of the features {self.cosine:.4f}, "
            f"{self.changed:.1%} of the answers change,\n"
            f"  accuracy {self.accuracy:.4f}, {self.loss['value']:.4f} lower than in float32 "
            f"(95 % interval {low:.4f} to {high:.4f})"
        )


@dataclass(frozen=True)
class Int8Pictures:
    """The pictures that calibrate a graph, and others with their labels that judge it.

    Parameters
    ----------
    calibration, compared
        Each as the graph takes it.
    y
        Labels of `compared`, shape (n,).
    held_out
        Whether the model had not seen `compared`.
    """

    calibration: list[Pixels]
    compared: list[Pixels]
    y: NDArray[np.str_]
    held_out: bool


def int8_pictures(model: Model, cache: str | os.PathLike[str] | None) -> Int8Pictures:
    """Read the pictures that int8 needs, before anything dear is done.

    Parameters
    ----------
    cache
        Of the training; None: the one that the model names.

    Raises
    ------
    ModelError
        If there are too few pictures to calibrate and compare.
    """
    if model.task != "classification":
        raise ModelError(f"{model.name} is a {model.task}, and int8 is measured by one label a row")
    place = cache_beside(model) if cache is None else Path(cache)
    if place is None:
        raise ModelError(
            f"int8 is calibrated on pictures of the training, and the cache of {model.name} is not "
            "where it was; name it by --cache"
        )
    with open_cache(place) as opened:
        model.require_cache(opened, precision=False)
        known, asked, truth, held_out = _rows(model, opened)
        pixels = _drawn(model, opened, known)
        compared = _drawn(model, opened, asked)
    if min(len(pixels), len(compared)) < _FEWEST:
        raise ModelError(
            f"int8 needs the pictures of {_FEWEST} training rows, and of {_FEWEST} others to "
            f"compare; of {place}, {len(pixels)} and {len(compared)} can be read"
        )
    y = np.array([truth[row] for row in compared])
    return Int8Pictures(list(pixels.values()), list(compared.values()), y, held_out)


def to_int8(model: Model, data: bytes, pictures: Int8Pictures) -> tuple[bytes, Int8Figures]:
    """Quantise the network of an exported graph: signed 8 bits, weights by channel (QDQ).

    The scales of the activations are those of pictures of training rows. Normalisation, the last
    pooling, head and thresholds stay in float32.

    Parameters
    ----------
    data
        The graph in float32.
    pictures
        From `int8_pictures`.

    Raises
    ------
    ModelError
        If 8 bits change the features or the answers too much.
    """
    made = _quantised(data, pictures.calibration)
    compared = np.stack(pictures.compared)
    figures = _compared(data, made, compared, pictures.y, model.classes)
    n, n_compared = len(pictures.calibration), len(pictures.compared)
    found = Int8Figures(n, n_compared, pictures.held_out, *figures)
    _require_harmless(model, found)
    return made, found


def _require_harmless(model: Model, found: Int8Figures) -> None:
    if found.cosine >= LEAST_COSINE and found.changed <= MOST_CHANGED and found.loss["low"] <= 0:
        return
    raise ModelError(
        f"int8 harms {model.name}: its features keep a median cosine of {found.cosine:.2f} (at "
        f"least {LEAST_COSINE}), {found.changed:.1%} of the answers change (at most "
        f"{MOST_CHANGED:.0%}), accuracy falls by {found.loss['value']:.3f}; nothing is written. "
        "Networks with depthwise convolutions (EfficientNet, MobileNet) seldom bear it; export "
        "without quantise"
    )


def _rows(model: Model, cache: Cache) -> tuple[list[int], list[int], dict[int, str], bool]:
    """Choose rows that calibrate, others that are compared, and give the label of each row."""
    labels = row_labels(cache, model.meta.get("label"))
    seen = model.saw(list(cache.ids), cache.content_digests, by_name=cache.has_own_ids)
    order = np.random.default_rng(0).permutation(len(cache))
    known = order[seen[order]].tolist()
    free = [row for row in order.tolist() if not seen[row] and labels[row] in model.classes]
    held_out = len(free) >= _FEWEST
    if not held_out:  # the model was fitted on all rows
        half = min(_N_CALIBRATION, len(known) // 2)
        known, free = known[:half], known[half:]
    truth = dict(enumerate(map(str, labels)))
    return known[:_N_CALIBRATION], free[:_N_COMPARED], truth, held_out


def _drawn(model: Model, cache: Cache, rows: list[int]) -> dict[int, Pixels]:
    """Draw what the graph takes of each row whose picture is still what it was."""
    preprocess = Preprocess.from_dict({**model.spec.preprocess, "views": [str(View())]})
    policy, read = policy_of(cache.spec.decode), image_reader(cache)
    found: dict[int, Pixels] = {}
    for row in rows:
        try:
            data = read(row)
            page = page_of_row(data, str(cache.ids[row]), bytes(cache.content_digests[row]))
            if page is None:
                continue
            pixels = decode(data, policy, min(preprocess.resize_size), page)
        except (FeatxError, KeyError, OSError):
            continue
        out = np.empty(preprocess.out_shape(), np.uint8)
        draw_pixels(pixels, preprocess, out)
        found[row] = out[0]
    return found


def _quantised(data: bytes, pixels: list[Pixels]) -> bytes:
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Pictures(CalibrationDataReader):  # type: ignore[misc]
        """Gives the pictures, some at a time."""

        def __init__(self) -> None:
            self._batches: Iterator[Any] = iter(_batches(pixels))

        def get_next(self) -> dict[str, Any] | None:
            """Return the next batch, None at the end."""
            batch = next(self._batches, None)
            return None if batch is None else {INPUT: batch}

    with scratch_folder() as folder, quiet():
        plain, ready, done = (folder / f"{name}.onnx" for name in ("plain", "ready", "int8"))
        plain.write_bytes(data)
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        quantize_static(
            ready,
            done,
            Pictures(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(_OPERATORS),
            nodes_to_quantize=_network_nodes(onnx.load(ready)),
        )
        proto = onnx.load(done)
    del proto.metadata_props[:]
    proto.metadata_props.extend(onnx.load_from_string(data).metadata_props)
    proto.metadata_props.add(key="quantised", value="int8")
    return bytes(proto.SerializeToString())


def _batches(pixels: list[Pixels]) -> list[NDArray[np.uint8]]:
    return [np.stack(pixels[k : k + _BATCH]) for k in range(0, len(pixels), _BATCH)]


def _network_nodes(proto: Any) -> list[str]:
    """Name the nodes from the first convolution on to the features: not normalisation, not head."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    above: set[str] = set()
    open_ = ["features"]
    while open_:
        node = makers.get(open_.pop())
        if node is not None and node.name not in above:
            above.add(node.name)
            open_ += node.input
    inside: set[str] = set()
    found = []
    for node in proto.graph.node:  # in the order in which they run
        first = node.op_type in ("Conv", "Gemm", "MatMul")
        if node.name in above and (first or any(name in inside for name in node.input)):
            inside.update(node.output)
            if node.op_type in _OPERATORS:
                found.append(node.name)
    return found


def _compared(
    plain: bytes, made: bytes, pixels: Pixels, y: RowValues, classes: list[str]
) -> tuple[float, float, float, dict[str, float], int, float]:
    import onnxruntime

    sessions = [
        onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        for graph in (plain, made)
    ]
    names = ["label", "features"]
    given: list[list[list[Any]]] = [[], []]
    taken: list[list[float]] = [[], []]
    for batch in _batches(list(pixels)):
        for k, session in enumerate(sessions):  # in turn, so that both meet the same machine
            start = time.perf_counter()
            given[k].append(session.run(names, {INPUT: batch}))
            taken[k].append((time.perf_counter() - start) / len(batch))
    (label, X), (label_8, X_8) = (
        [np.concatenate(parts) for parts in zip(*runs, strict=True)] for runs in given
    )
    lengths = np.linalg.norm(X, axis=1) * np.linalg.norm(X_8, axis=1)
    cosine = float(np.median((X * X_8).sum(axis=1) / np.maximum(lengths, 1e-12)))
    answers, answers_8 = np.asarray(classes)[label], np.asarray(classes)[label_8]
    fall = compare_paired(y, answers_8, answers)["difference"]
    accuracy, changed = float((answers_8 == y).mean()), float((label != label_8).mean())
    speed = float(np.median(taken[0]) / np.median(taken[1]))
    return cosine, changed, accuracy, fall, len(plain), speed
