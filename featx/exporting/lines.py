"""The ten lines that run an exported file without featx."""

from __future__ import annotations

from featx.preprocess import Preprocess


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
