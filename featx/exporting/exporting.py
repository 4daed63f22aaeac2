"""From a model to one checked ONNX file, and the ten lines that run it."""

from __future__ import annotations

import importlib
import io
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featx.errors import MissingExtraError, ModelError
from featx.exporting.graph import INPUT, output_names, require_exportable, to_onnx, whole_model
from featx.exporting.int8 import Int8Figures, to_int8
from featx.files import scratch_folder, size_text, write_bytes
from featx.images import decode, draw_pixels
from featx.model import Model
from featx.model.archive import REFERENCES
from featx.model.network import require_same_features
from featx.model.prediction import predict
from featx.preprocess import Preprocess, View
from featx.progress import Progress
from featx.spec import library_versions
from featx.targets import GENERATOR, require_writable


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


MOST_APART = 1e-3
"""How far a probability in ONNX Runtime may lie from featx's."""

_NEEDED = ("onnx", "onnxruntime", "onnxscript")


_STAGES = 4  # the network is loaded, translated, run by ONNX Runtime, and run by featx


@dataclass(frozen=True)
class ExportResult:
    """What was written; `to_dict` is the JSON of ``featx export --json``.

    Parameters
    ----------
    out, n_bytes, opset, outputs
        The file, and what its graph gives.
    checked
        Pictures on which ONNX Runtime and featx were compared.
    difference
        Largest of any probability (of a value: relative to 1 or to the value) to featx in float32.
    precision, difference_as_trained
        What the features of the training were computed in, and the difference to featx in that.
    notes
        Where the ten lines read pictures otherwise than featx.
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
    precision: str
    difference_as_trained: float
    notes: list[str] = field(default_factory=list)
    code: str = field(default="", repr=False)
    int8: Int8Figures | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    def __str__(self) -> str:
        trained = ""
        if self.precision != "fp32":
            trained = f", {self.difference_as_trained:.1e} from {self.precision} as trained"
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
    force: bool = False,
) -> ExportResult:
    """Write a model as one ONNX file: cropped uint8 pictures in, probabilities out.

    The graph normalises, turns views, runs the network in float32, and applies head and thresholds.
    It is compared with featx in ONNX Runtime first, and nothing is written where they differ.

    Parameters
    ----------
    model
        From `featx.load_model`.
    path
        The ``.onnx`` file; replaced once the new one is complete.
    weights, backbone
        Where the file of the weights, or the code of the network, lies now.
    quantise
        ``int8`` lets the network compute in 8 bits, for networks without depthwise convolutions:
        smaller and mostly faster. The scales are set on pictures of training rows. Nothing is
        written where features or answers change too much; ``int8`` of the result has the figures.
    cache
        Cache of the training, for `quantise`; None: the one that the model names.
    force
        Replace a file at `path` that featx did not write.

    Returns
    -------
    exported : what was written, and the ten lines that run it

    Raises
    ------
    MissingExtraError
        If the extra ``onnx`` is not installed.
    ModelError
        If the model has no form in ONNX, ONNX Runtime gives other probabilities, or 8 bits harm it.
    BackboneError
        If the network cannot be translated.

    Examples
    --------
    >>> featx.load_model("cells.featx").export("cells.onnx").difference < 1e-3  # doctest: +SKIP
    True
    """
    target = Path(path)
    _require_extra()
    require_writable(target, "ONNX file", model.path, force=force)
    model.require_pictures("export")
    require_exportable(model)
    options: dict[str, Any] = {"weights": weights, "backbone": backbone}
    options |= {"device": "cpu", "compile": "off", "progress": False}
    chosen = require_same_features(model, {**options, "precision": "fp32"})
    with Progress(_STAGES, "export", unit="steps") as show:
        network = whole_model(model, chosen["backbone"], chosen["weights"])
        show.step()
        proto = to_onnx(network, model)
        _describe(proto, model)
        data = proto.SerializeToString()
        show.step()
        pictures = _pictures(model)
        given = _run(data, _pixels(model, pictures))
        show.step()
        expected = _labelled(model, pictures, {**options, "precision": "fp32"})
    difference = _difference(expected, given)
    if not difference <= MOST_APART:
        raise ModelError(
            f"{model.name}: ONNX Runtime gives other numbers than featx: {difference:.2g} apart on "
            f"its reference images (at most {MOST_APART} is allowed); {target} is not written"
        )
    trained = model.spec.precision
    as_trained = difference
    if trained != "fp32":
        as_trained = _difference(_labelled(model, pictures, options), given)
    figures = None
    if quantise is not None:
        data, figures = to_int8(model, data, cache)
    write_bytes(target, data)
    preprocess = Preprocess.from_dict(model.spec.preprocess)
    return ExportResult(
        out=os.fspath(path),
        n_bytes=len(data),
        opset=_opset(proto),
        outputs=output_names(model),
        checked=len(pictures),
        difference=difference,
        precision=trained,
        difference_as_trained=as_trained,
        notes=_notes(model, preprocess),
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


def _describe(proto: Any, model: Model) -> None:
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
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
    helper.set_model_props(proto, texts)
    proto.producer_name = GENERATOR


def _pictures(model: Model) -> list[bytes]:
    """Give the model's reference images, or drawn ones where it has none."""
    from PIL import Image

    found = [model.members[name] for name in REFERENCES if name in model.members]
    height, width = model.spec.preprocess["resize_size"]
    for seed in range(0 if found else len(REFERENCES)):
        coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
        file = io.BytesIO()
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        smooth.save(file, "PNG")
        found.append(file.getvalue())
    return found


def _pixels(model: Model, pictures: list[bytes]) -> NDArray[np.uint8]:
    """Draw what the graph takes, uint8 (n, height, width, 3); its views are inside the graph."""
    kept = Preprocess.from_dict({**model.spec.preprocess, "views": [str(View())]})
    drawn = np.empty((len(pictures), *kept.out_shape()[1:]), np.uint8)
    for data, out in zip(pictures, drawn, strict=True):
        draw_pixels(decode(data), kept, out[None])
    return drawn


def _run(data: bytes, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    first = session.get_outputs()[0].name
    # One by one and together: the batch must be free.
    single = [session.run([first], {INPUT: picture[None]})[0] for picture in pixels]
    together = session.run([first], {INPUT: pixels})[0]
    alone = np.concatenate(single)
    return np.asarray(np.stack([alone, together]), dtype=np.float64)


def _labelled(model: Model, pictures: list[bytes], options: dict[str, Any]) -> NDArray[np.float64]:
    """Give what featx predicts for the same pictures, from their files."""
    with scratch_folder() as folder:
        files = [folder / f"{k}.png" for k in range(len(pictures))]
        for file, data in zip(files, pictures, strict=True):
            file.write_bytes(data)
        rows = predict(model, [str(file) for file in files], options=options).rows
    if not model.classes:
        return np.array([row["label"] for row in rows], dtype=np.float64)
    return np.array([[row[f"p_{name}"] for name in model.classes] for row in rows])


def _difference(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    return float((np.abs(theirs - ours) / np.maximum(1, np.abs(ours))).max())


def _notes(model: Model, preprocess: Preprocess) -> list[str]:
    notes = ["The resize may differ from featx's by a grey level. featx also puts transparent"]
    notes.append("pictures on white and scales 16-bit ones; the lines above do not.")
    if model.spec.decode["mode"] == "fast":
        notes.append("The model was trained on JPEGs decoded at reduced scale (--decode fast).")
    for name in ("bits", "bands"):
        if name in model.spec.decode:
            chosen = model.spec.decode[name]
            notes.append(f"The model was trained on pictures decoded with --{name} {chosen}.")
    if not preprocess.antialias:
        notes.append("The model was trained without antialiasing, which Pillow always does.")
    return notes
