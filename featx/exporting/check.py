"""The check of an exported graph: ONNX Runtime beside featx, on the reference images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.cache.cache import open_cache
from featx.errors import ModelError
from featx.explaining import Explainer
from featx.exporting.graph import INPUT
from featx.files import scratch_folder
from featx.heads.linear import LinearForm
from featx.images import decode, draw_pixels
from featx.model import Model
from featx.model.archive import REFERENCES
from featx.model.likeness import Likeness
from featx.model.prediction import predict
from featx.preprocess import Preprocess, View

MOST_APART = 1e-3
"""How far a probability in ONNX Runtime may lie from featx's."""


def differences(
    model: Model,
    pictures: list[bytes],
    given: dict[str, NDArray[Any]],
    extra: tuple[Likeness | None, LinearForm | None],
    options: dict[str, Any],
) -> dict[str, float]:
    """Give the largest difference between featx and ONNX Runtime, by name of the output."""
    near, form = extra
    expected, X = labelled(model, pictures, options)
    first = next(iter(given))
    apart = {first: difference(expected, given[first])}
    if near is not None:
        distances = near.nearest(X, 1)[1][:, 0].astype(np.float64)
        apart["distance"] = difference(distances, given["distance"])
    if form is not None:
        explainer = Explainer(model, weights=options["weights"], backbone=options["backbone"])
        maps = _maps(explainer, pixels_of(model, pictures), form)
        most = max(1.0, float(np.abs(maps).max()))
        apart["map"] = difference(maps / most, given["map"] / most)
    return apart


def _maps(explainer: Explainer, pixels: NDArray[np.uint8], form: LinearForm) -> NDArray[np.float64]:
    """Give the map of each output of the head as `featx explain` does."""
    return np.array(
        [[explainer.of_drawn(one[None], *side).map for side in form.sides] for one in pixels]
    )


def require_close(apart: dict[str, float], name: str, target: Path) -> None:
    """Refuse a graph whose numbers are not featx's: ModelError."""
    for what, difference in apart.items():
        if not difference <= MOST_APART:
            raise ModelError(
                f"{name}: ONNX Runtime gives other numbers than featx: {what} {difference:.2g} "
                f"apart on its reference images (at most {MOST_APART} is allowed); {target} is "
                "not written"
            )


def reference_pictures(model: Model) -> list[bytes]:
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


def pixels_of(model: Model, pictures: list[bytes]) -> NDArray[np.uint8]:
    """Draw what the graph takes, uint8 (n, height, width, 3); its views are inside the graph."""
    kept = Preprocess.from_dict({**model.spec.preprocess, "views": [str(View())]})
    drawn = np.empty((len(pictures), *kept.out_shape()[1:]), np.uint8)
    for data, out in zip(pictures, drawn, strict=True):
        draw_pixels(decode(data), kept, out[None])
    return drawn


def run_graph(
    data: bytes, pixels: NDArray[np.uint8], outputs: list[str]
) -> dict[str, NDArray[np.float64]]:
    """Run the graph on pictures one by one and together: shape (2, n_pictures, ...) of each."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    # One by one and together: the batch must be free.
    single = [session.run(outputs, {INPUT: picture[None]}) for picture in pixels]
    together = session.run(outputs, {INPUT: pixels})
    alone = [np.concatenate(values) for values in zip(*single, strict=True)]
    return {
        name: np.stack([one, both]).astype(np.float64)
        for name, one, both in zip(outputs, alone, together, strict=True)
    }


def labelled(
    model: Model, pictures: list[bytes], options: dict[str, Any]
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Give what featx predicts for the same pictures, from their files, and their features."""
    with scratch_folder() as folder:
        files = [folder / f"{k}.png" for k in range(len(pictures))]
        for file, data in zip(files, pictures, strict=True):
            file.write_bytes(data)
        place = folder / "features.h5"
        rows = predict(model, [str(file) for file in files], cache=place, options=options).rows
        with open_cache(place) as cache:
            X = np.asarray(cache.tap(model.tap), dtype=np.float32)
    if not model.classes:
        return np.array([row["label"] for row in rows], dtype=np.float64), X
    return np.array([[row[f"p_{name}"] for name in model.classes] for row in rows]), X


def difference(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """Give the largest difference, relative where a number is above one."""
    return float((np.abs(theirs - ours) / np.maximum(1, np.abs(ours))).max())
