"""Reference images: whether features are still those that a model was trained on."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.cache.cache import Cache
from featx.errors import DeviceError, DriftError, FeatxError, ModelError
from featx.model import Model
from featx.model.archive import N_REFERENCES, REFERENCES
from featx.preprocess import Preprocess
from featx.slices import WHOLE, SliceRecord
from featx.spec import ExtractSpec, as_trained, library_versions, spec_difference
from featx.typing import JsonObject

LEAST_COSINE = 0.999
_VECTORS = "references.npy"


def same_options(model: Model, options: dict[str, Any]) -> dict[str, Any]:
    """Give all that `featx.extract` needs for the features of the training; nothing is checked.

    Raises
    ------
    ModelError
        If the backbone is code of a file and the user did not name it, or `options` name a shard.
    """
    from featx.extraction.options import DECIDE_VALUES

    model.require_pictures("embedding")
    if options.get("shard") is not None:
        raise ModelError(
            "a model labels whole sources and takes no shard; give each run a source of its own, "
            "as a pattern that names some of the tars"
        )
    options = {k: v for k, v in options.items() if v is not None or k not in DECIDE_VALUES}
    kept = {k: v for k, v in model.meta["options"].items() if k in DECIDE_VALUES}
    chosen = {**kept, **_same(model, options), **options}
    _require_no_code(model, chosen, options)
    return chosen


def require_same_vectors(
    model: Model, spec: ExtractSpec, vectors: NDArray[np.float32] | None
) -> None:
    """Refuse features that are not those of the training.

    Parameters
    ----------
    spec
        By which this machine computes.
    vectors
        What it makes of `reference_images`, shape (n, n_features); None where there are none.

    Raises
    ------
    ModelError, DriftError
        If the weights, the taps, the preprocessing or the decoder are others; if a vector's cosine
        with the one in the model is below 0.999.
    """
    _require_spec(model, spec)
    if vectors is not None:
        _require_vectors(model, vectors, spec)


def _require_no_code(model: Model, chosen: JsonObject, options: dict[str, Any]) -> None:
    """A model is data: a file of code runs only when the user names it, never the model alone."""
    name = str(chosen.get("backbone"))
    if name.startswith("file:") and "backbone" not in options:
        raise ModelError(
            f"{model.name} takes its network from code ({name}), which a model may not run; if you "
            f"trust that file, pass --backbone {name}"
        )


def _same(model: Model, options: dict[str, Any]) -> dict[str, Any]:
    from featx.runtime import plan_runtime

    device, precision = options.get("device", "auto"), model.spec.precision
    try:
        plan_runtime(device=device, precision=precision)
    except DeviceError:
        precision = "fp32"  # what every machine has; the vectors decide whether it will do
    mode = model.spec.decode["mode"]
    weights = model.meta["options"].get("weights")
    return {"device": device, "precision": precision, "decode": mode, "weights": weights}


def reference_images(model: Model) -> list[bytes]:
    """Give the reference images as PNG files, in the order of their vectors."""
    return [model.members[name] for name in REFERENCES if name in model.members]


def plain_image(model: Model) -> bytes:
    """Make any picture, as PNG: without references the spec alone is compared."""
    from PIL import Image

    file = io.BytesIO()
    height, width = model.spec.preprocess["input_size"]
    Image.new("RGB", (width, height), "grey").save(file, "PNG")
    return file.getvalue()


def _require_spec(model: Model, spec: ExtractSpec) -> None:
    same = as_trained(replace(spec, precision=model.spec.precision), model.spec)
    if changed := spec_difference(model.spec, same):
        raise ModelError(
            f"{model.name} cannot be fed: its features were computed otherwise than this machine "
            f"would: {'; '.join(changed)}{_libraries(model)}"
        )


def _require_vectors(model: Model, vectors: NDArray[np.float32], spec: ExtractSpec) -> None:
    known = reference_vectors(model)
    if known.shape != vectors.shape:
        raise DriftError(
            f"{model.name}: reference images give {vectors.shape}, and gave {known.shape}"
        )
    norms = np.linalg.norm(known, axis=1) * np.linalg.norm(vectors, axis=1)
    cosines = (known * vectors).sum(axis=1) / np.maximum(norms, np.finfo(np.float32).tiny)
    worst = int(cosines.argmin())
    if not cosines[worst] >= LEAST_COSINE:
        how = f", {spec.precision} in place of {model.spec.precision}"
        raise DriftError(
            f"{model.name}: features are computed otherwise than in the training: reference image "
            f"{worst} has cosine {cosines[worst]:.4f} with its vector of the training (at least "
            f"{LEAST_COSINE} is needed), weights {spec.weights_digest[:12]}"
            f"{how if spec.precision != model.spec.precision else ''}{_libraries(model)}"
        )


def _libraries(model: Model) -> str:
    then, now = model.meta.get("versions", {}), library_versions()
    changed = [
        f"{name} {then.get(name)} -> {now.get(name)}"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]
    return f"; libraries that changed: {', '.join(changed) or 'none'}"


def reference_vectors(model: Model) -> NDArray[np.float32]:
    """Vectors of the reference images, float32, shape (n, n_features).

    Raises
    ------
    ModelError
        If the model's are damaged.
    """
    try:
        found = np.load(io.BytesIO(model.members[_VECTORS]), allow_pickle=False)
    except (KeyError, ValueError, EOFError, OSError, MemoryError) as error:
        raise ModelError(f"{model.name} is damaged: {_VECTORS}: {error}") from None
    return np.asarray(found, dtype=np.float32)


def make_references(cache: Cache, tap: str, rows: NDArray[np.int64]) -> dict[str, bytes]:
    """Take up to eight of these rows' images as reference images.

    Each is kept as it is after resizing and before cropping, where resizing once more changes
    nothing: so its vector is the one in the cache.

    Parameters
    ----------
    rows
        Row numbers of the training rows.

    Returns
    -------
    members : name -> bytes, empty where no image can be read any more
    """
    if cache.spec.is_external:
        return {}  # there are no pictures
    preprocess = Preprocess.from_dict(cache.spec.preprocess)
    if any(view.scale != 1 for view in preprocess.views):
        return {}  # a larger view is not made of the resized picture
    read = image_reader(cache)
    spread = rows[np.unique(np.linspace(0, len(rows) - 1, 4 * N_REFERENCES).astype(int))]
    images: list[bytes] = []
    kept: list[int] = []
    for row in spread:
        image = _resized(cache, int(row), read, preprocess)
        if image is not None:
            images.append(image)
            kept.append(int(row))
        if len(kept) == N_REFERENCES:
            break
    if not kept:
        return {}
    file = io.BytesIO()
    np.save(file, np.asarray(cache.tap(tap)[kept], dtype=np.float32), allow_pickle=False)
    return {**dict(zip(REFERENCES, images, strict=False)), _VECTORS: file.getvalue()}


def image_reader(cache: Cache) -> Callable[[int], bytes]:
    """Give what reads the image of a row, from its path or from the source of the cache."""
    from featx.sources.load import read_again

    dealt = SliceRecord.from_dict(cache.provenance.get("shard"))
    slice_ = WHOLE if dealt is None else dealt.slice_
    source, missing = str(cache.provenance.get("source")), cache.provenance.get("missing") or ()
    return read_again(source, cache.ids, cache.paths, slice_, missing)


def _resized(
    cache: Cache, row: int, read: Callable[[int], bytes], preprocess: Preprocess
) -> bytes | None:
    from PIL import Image

    from featx.images import decode, policy_of, resize_box, resized_size
    from featx.images.pages import page_of_row

    try:
        data = read(row)
        page = page_of_row(data, str(cache.ids[row]), bytes(cache.content_digests[row]))
        if page is None:
            return None  # another picture lies there now
        policy = policy_of(cache.spec.decode)
        pixels = decode(data, policy, min(preprocess.resize_size), page)
    except (FeatxError, KeyError):
        return None
    size = resized_size((pixels.shape[0], pixels.shape[1]), preprocess)
    if size[0] * size[1] > 4 * preprocess.input_size[0] * preprocess.input_size[1]:
        return None  # a long, thin picture is resized in parts, and is large
    # By Pillow, so that a fit need not load torch; a grey level or two move no vector that far.
    drawn = resize_box(pixels, size, (0, 0), size, preprocess.interpolation)
    file = io.BytesIO()
    Image.fromarray(drawn).save(file, "PNG")
    return file.getvalue()
