"""From a model to one checked ONNX file, and the ten lines that run it."""

from __future__ import annotations

import importlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from featx.errors import MissingExtraError, OptionError
from featx.exporting.check import (
    difference,
    differences,
    labelled,
    pixels_of,
    reference_pictures,
    require_close,
    run_graph,
)
from featx.exporting.graph import (
    add_map,
    map_form,
    output_names,
    require_exportable,
    to_onnx,
    whole_model,
)
from featx.exporting.int8 import Int8Figures, int8_pictures, to_int8
from featx.files import size_text, write_bytes
from featx.heads.linear import LinearForm
from featx.model import Model
from featx.model.likeness import RATE, Likeness, likeness_of, require_rate
from featx.model.network import require_same_features
from featx.preprocess import Preprocess
from featx.progress import Progress
from featx.spec import library_versions
from featx.targets import GENERATOR, require_writable
from featx.typing import JsonObject


def standalone_lines(file: str, preprocess: Preprocess, *, classes: bool) -> str:
    """Write a script of ten lines: a picture in, probabilities or a value out.

    Parameters
    ----------
    file
        Name of the ONNX file.
    preprocess
        How the picture becomes the pixels that the graph takes.
    classes
        Whether the graph gives probabilities rather than a value.

    Returns
    -------
    text : needs onnxruntime, Pillow and numpy; takes the picture's name as its argument
    """
    resample = f"Image.Resampling.{preprocess.interpolation.upper()}"
    lines = [
        "import json, sys, numpy as np, onnxruntime",
        "from PIL import Image, ImageOps",
        f"session = onnxruntime.InferenceSession({file!r})",
        'image = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")',
        "w, h = image.size",
        f"w, h = {_size(preprocess)}",
        *_cropped(preprocess, f"image.resize((w, h), {resample})"),
    ]
    run = 'session.run(["{}"], {{"images": np.asarray(image)[None]}})[0][0]'
    if not classes:
        return "\n".join([*lines, f"print({run.format('value')})"])
    named = 'json.loads(session.get_modelmeta().custom_metadata_map["classes"])'
    lines.append(f"p = {run.format('probabilities')}")
    return "\n".join([*lines, f"print(json.dumps(dict(zip({named}, p.tolist()))))"])


def _size(preprocess: Preprocess) -> str:
    height, width = preprocess.resize_size
    if preprocess.resize == "squash":
        return f"{width}, {height}"
    if preprocess.resize == "pad":
        ratio = f"min({height} / h, {width} / w)"
        return f"(max(1, round(side * {ratio})) for side in (w, h))"
    short = min(height, width)
    return f"({short} * w // h, {short}) if w > h else ({short}, {short} * h // w)"


def _cropped(preprocess: Preprocess, resized: str) -> list[str]:
    height, width = preprocess.input_size
    if preprocess.resize != "pad" and _covers(preprocess):
        return [
            f"x, y = round((w - {width}) / 2), round((h - {height}) / 2)",
            f"image = {resized}.crop((x, y, x + {width}, y + {height}))",
        ]
    # The picture may be smaller than what the network takes: on a ground, not cut out.
    fill = preprocess.mean if preprocess.resize == "pad" else (0.0,) * 3
    colour = tuple(round(255 * part) for part in (fill * 3)[:3])
    x, y = _middle("w", width, preprocess), _middle("h", height, preprocess)
    return [
        f'small, image = {resized}, Image.new("RGB", ({width}, {height}), {colour})',
        f"image.paste(small, ({x}, {y}))",
    ]


def _middle(side: str, size: int, preprocess: Preprocess) -> str:
    """Where a picture goes on its ground: rounded otherwise where it is larger than that."""
    if max(preprocess.resize_size) <= size:
        return f"({size} - {side}) // 2"
    return f"({size} - {side}) // 2 if {side} < {size} else -round(({side} - {size}) / 2)"


def _covers(preprocess: Preprocess) -> bool:
    short = min(preprocess.resize_size)
    resized = (short, short) if preprocess.resize == "crop" else preprocess.resize_size
    return all(r >= s for r, s in zip(resized, preprocess.input_size, strict=True))


_NEEDED = ("onnx", "onnxruntime", "onnxscript")


_STAGES = 4  # the network is loaded, translated, run by ONNX Runtime, and run by featx


@dataclass(frozen=True)
class ExportResult:
    """The result of an export; `to_dict` is the JSON of ``featx export --json``.

    Parameters
    ----------
    out, n_bytes, opset, outputs
        The file, and what its graph gives.
    checked
        Pictures on which ONNX Runtime and featx were compared.
    difference
        Largest of any probability (of a value: relative to 1 or to the value) to featx in float32.
    difference_of_distance, difference_of_map
        Largest of the distance to the nearest picture of the training, and of the map (relative to
        1 or to its largest value); None where the graph does not give them.
    precision, difference_as_trained
        What the features of the training were computed in, and the difference to featx in that.
    notes
        Where the ten lines read pictures otherwise than featx, and what the graph lacks.
    code
        The ten lines that run the file without featx.
    int8
        Size, speed and loss of accuracy in 8 bits; None for float32.
    """

    out: str
    n_bytes: int
    opset: int
    outputs: list[str]
    checked: int
    difference: float
    difference_of_distance: float | None
    difference_of_map: float | None
    precision: str
    difference_as_trained: float
    notes: list[str] = field(default_factory=list)
    code: str = field(default="", repr=False)
    int8: Int8Figures | None = None

    def to_dict(self) -> JsonObject:
        """JSON-ready values."""
        return asdict(self)

    def __str__(self) -> str:
        trained = ""
        if self.precision != "fp32":
            trained = f", {self.difference_as_trained:.1e} from {self.precision} as trained"
        for what in ("distance", "map"):
            apart = getattr(self, f"difference_of_{what}")
            trained += "" if apart is None else f", {what} {apart:.1e}"
        trained += "" if self.int8 is None else f"\n{self.int8}"
        notes = "".join(f"\n# {note}" for note in self.notes)
        return (
            f"{self.out}: {size_text(self.n_bytes)}, opset {self.opset}, images -> "
            f"{', '.join(self.outputs)}\n"
            f"  ONNX Runtime on {self.checked} pictures: {self.difference:.1e} from featx in fp32"
            f"{trained}\n\n# Runs it without featx: python lines.py PICTURE\n{self.code}{notes}"
        )


def export(
    model: Model,
    path: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    backbone: str | None = None,
    quantise: Literal["int8"] | None = None,
    cache: str | os.PathLike[str] | None = None,
    map: bool = False,
    unfamiliar_at: float = RATE,
    force: bool = False,
) -> ExportResult:
    """Write a model as one ONNX file; see `featx.model.Model.export`.

    The graph normalises, turns views, runs the network in float32, and applies head and thresholds.
    It is compared with featx in ONNX Runtime first, and nothing is written where they differ.
    """
    if cache is not None and quantise is None:
        raise OptionError(
            "export: cache is read for quantise only; add quantise int8, or leave it out"
        )
    target = Path(path)
    _require_extra()
    require_writable(target, "ONNX file", model.path, force=force)
    model.require_pictures("export")
    require_exportable(model)
    require_rate(unfamiliar_at)
    form = map_form(model) if map else None
    calibration = None if quantise is None else int8_pictures(model, cache)
    options: dict[str, Any] = {"weights": weights, "backbone": backbone}
    options |= {"device": "cpu", "compile": "off", "progress": False}
    chosen = require_same_features(model, {**options, "precision": "fp32"})
    near = likeness_of(model)
    near = None if near is None else near.at(unfamiliar_at)
    outputs = output_names(model, near)
    with Progress(_STAGES, "export", unit="steps") as show:
        network = whole_model(model, chosen["backbone"], chosen["weights"], near)
        show.step()
        proto = to_onnx(network, model, outputs)
        if form is not None:
            add_map(proto, form, model.name)
            outputs = [*outputs, "map"]
        _describe(proto, model, near, form)
        data = proto.SerializeToString()
        show.step()
        pictures = reference_pictures(model)
        given = run_graph(data, pixels_of(model, pictures), outputs)
        show.step()
        fp32 = {**options, "precision": "fp32"}
        apart = differences(model, pictures, given, (near, form), fp32)
    require_close(apart, model.name, target)
    as_trained = apart[outputs[0]]
    if model.spec.precision != "fp32":
        as_trained = difference(labelled(model, pictures, options)[0], given[outputs[0]])
    figures = None
    if calibration is not None:
        data, figures = to_int8(model, data, calibration)
    write_bytes(target, data)
    preprocess = Preprocess.from_dict(model.spec.preprocess)
    return ExportResult(
        out=os.fspath(path),
        n_bytes=len(data),
        opset=_opset(proto),
        outputs=outputs,
        checked=len(pictures),
        difference=apart[outputs[0]],
        difference_of_distance=apart.get("distance"),
        difference_of_map=apart.get("map"),
        precision=model.spec.precision,
        difference_as_trained=as_trained,
        notes=_notes(model, preprocess, near),
        code=standalone_lines(os.fspath(path), preprocess, classes=bool(model.classes)),
        int8=figures,
    )


def _require_extra() -> None:
    for name in _NEEDED:
        try:
            importlib.import_module(name)
        except ImportError:
            raise MissingExtraError(f"exporting needs {name}; pip install 'featx[onnx]'") from None


def _opset(proto: Any) -> int:
    return next(int(o.version) for o in proto.opset_import if o.domain in ("", "ai.onnx"))


def _describe(proto: Any, model: Model, near: Likeness | None, form: LinearForm | None) -> None:
    """Put what a reader of the file needs to know inside."""
    from onnx import helper

    values = {
        "classes": model.classes,
        "task": model.task,
        "preprocess": model.spec.preprocess,
        "thresholds": model.thresholds,
        "fingerprint": model.fingerprint,
        "weights_digest": model.spec.weights_digest,
        "architecture": model.spec.architecture,
        "tap": model.tap,
        "head": model.meta["head"],
        "featx": library_versions().get("featx", ""),
        "opset": str(_opset(proto)),
    }
    if near is not None:
        values |= {"unfamiliar_limit": near.limit, "unfamiliar_at": near.rate}
    if form is not None:
        values |= {"map_sides": form.sides, "map_bias": form.bias.tolist()}
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
    helper.set_model_props(proto, texts)
    proto.producer_name = GENERATOR


def _notes(model: Model, preprocess: Preprocess, near: Likeness | None) -> list[str]:
    notes = ["The resize may differ from featx's by a grey level. featx also puts transparent"]
    notes.append("pictures on white and scales 16-bit ones; the lines above do not.")
    if model.spec.decode["mode"] == "fast":
        notes.append("The model was trained on JPEGs decoded at reduced scale (--decode fast).")
    for name in ("bits", "bands"):
        if name in model.spec.decode:
            chosen = model.spec.decode[name]
            notes.append(f"The model was trained on pictures decoded with --{name} {chosen}.")
    if near is None:
        notes.append("No output `unfamiliar`: the model holds no vectors of its training.")
    if not preprocess.antialias:
        notes.append("The model was trained without antialiasing, which Pillow always does.")
    return notes
