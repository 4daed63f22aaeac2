"""Pictures drawn straight into the batch: resized, cropped, turned."""

from __future__ import annotations

import numpy as np
from PIL import Image

from featx.images.decoding import decode
from featx.images.policy import DEFAULT_POLICY, DecodeMode, DecodePolicy, Pixels
from featx.preprocess import Preprocess, View

_MOST_RESIZED = 100_000_000  # pixels of a long, thin picture that are resized as a whole


def draw(
    data: bytes, preprocess: Preprocess, out: Pixels, policy: DecodePolicy = DEFAULT_POLICY
) -> None:
    """Decode `data` and draw each view of it into `out`.

    Parameters
    ----------
    data
        The bytes of an image file.
    preprocess
        Size, resizing and views.
    out
        uint8, shape `Preprocess.out_shape`, RGB; written in place.
    policy
        See `decode`.
    """
    draw_pixels(decode(data, policy, min(preprocess.resize_size)), preprocess, out, policy.mode)


def draw_pixels(
    pixels: Pixels, preprocess: Preprocess, out: Pixels, mode: DecodeMode = "exact"
) -> None:
    """Draw each view of decoded pixels, uint8 (height, width, 3), into `out`.

    Parameters
    ----------
    mode
        ``reference`` resizes by Pillow, as the transforms of torchvision and timm do: their pixels
        bit for bit. Else torch's faster kernel resizes, within two grey levels of them.
    """
    for view, target in zip(preprocess.views, out, strict=True):
        drawn = _draw_view(pixels, preprocess, view, mode)
        target[...] = _turn(drawn, view.turn)


def _draw_view(pixels: Pixels, preprocess: Preprocess, view: View, mode: DecodeMode) -> Pixels:
    height, width = pixels.shape[:2]
    size = resized_size((height, width), preprocess, view.scale)
    crop = preprocess.input_size
    if view.turn in ("rot90", "rot270", "transpose", "transverse"):
        crop = (crop[1], crop[0])
    top, left = (_offset(size[i], crop[i], view.position, i) for i in (0, 1))
    # A long, thin picture would grow to gigabytes: resize only what the crop shows.
    most = _MOST_RESIZED if mode == "reference" else 16 * crop[0] * crop[1]
    if size[0] * size[1] > most and size[0] >= crop[0] and size[1] >= crop[1]:
        return resize_box(pixels, size, (top, left), crop, preprocess.interpolation)
    resized = _resize(pixels, size, preprocess, mode)
    fill = preprocess.mean if preprocess.resize == "pad" else (0.0, 0.0, 0.0)
    return _crop(resized, (top, left), crop, fill)


def resized_size(
    size: tuple[int, int], preprocess: Preprocess, scale: float = 1.0
) -> tuple[int, int]:
    """Height and width after resizing, rounded as torchvision rounds them."""
    height, width = size
    to_height, to_width = (max(1, int(s * scale)) for s in preprocess.resize_size)
    if preprocess.resize == "squash":
        return to_height, to_width
    if preprocess.resize == "pad":
        ratio = min(to_height / height, to_width / width)
        return max(1, round(height * ratio)), max(1, round(width * ratio))
    short = min(to_height, to_width)
    if height <= width:
        return short, max(1, int(short * width / height))
    return max(1, int(short * height / width)), short


def _resize(
    pixels: Pixels, size: tuple[int, int], preprocess: Preprocess, mode: DecodeMode
) -> Pixels:
    if pixels.shape[:2] == size:
        return pixels
    if mode == "reference":
        resample = Image.Resampling[preprocess.interpolation.upper()]
        return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), resample))
    if preprocess.interpolation not in ("bilinear", "bicubic"):
        return resize_box(pixels, size, (0, 0), size, preprocess.interpolation)
    import torch
    from torch.nn import functional

    # (1, 3, h, w) in channels-last strides, that of the first axis too, or torch gives planes back;
    # then it is the vectorised uint8 kernel with Pillow's arithmetic.
    tensor = torch.from_numpy(np.ascontiguousarray(pixels))[None].permute(0, 3, 1, 2)
    resized = functional.interpolate(
        tensor, size, mode=preprocess.interpolation, antialias=preprocess.antialias
    )
    drawn: Pixels = resized[0].permute(1, 2, 0).numpy()
    return drawn


def resize_box(
    pixels: Pixels,
    size: tuple[int, int],
    offset: tuple[int, int],
    crop: tuple[int, int],
    interpolation: str,
) -> Pixels:
    """Resize the part that the crop shows by Pillow: the same kernel positions as the whole.

    Bilinear and bicubic pixels are within two grey levels of torch's, which are as a rule equal.
    """
    step_y, step_x = pixels.shape[0] / size[0], pixels.shape[1] / size[1]
    top, left = offset
    box = (left * step_x, top * step_y, (left + crop[1]) * step_x, (top + crop[0]) * step_y)
    box = (*box[:2], min(box[2], pixels.shape[1]), min(box[3], pixels.shape[0]))
    resample = Image.Resampling[interpolation.upper()]
    return np.asarray(Image.fromarray(pixels).resize((crop[1], crop[0]), resample, box=box))


def _offset(size: int, crop: int, position: str, axis: int) -> int:
    """Where the crop starts along one axis; not above 0 where the picture is smaller."""
    if position == "center" or size < crop:
        return round((size - crop) / 2.0) if size >= crop else -((crop - size) // 2)
    first = ("top" in position) if axis == 0 else ("left" in position)
    return 0 if first else size - crop


def _crop(
    pixels: Pixels, offset: tuple[int, int], crop: tuple[int, int], fill: tuple[float, ...]
) -> Pixels:
    top, left = offset
    if pixels.shape[0] >= crop[0] and pixels.shape[1] >= crop[1]:
        return pixels[top : top + crop[0], left : left + crop[1]]
    drawn = np.empty((*crop, 3), np.uint8)
    drawn[:] = [round(255 * f) for f in fill]
    source = pixels[max(0, top) : max(0, top) + crop[0], max(0, left) : max(0, left) + crop[1]]
    y, x = max(0, -top), max(0, -left)
    drawn[y : y + source.shape[0], x : x + source.shape[1]] = source
    return drawn


def _turn(pixels: Pixels, turn: str) -> Pixels:
    """Turn a picture: the seven symmetries of a rectangle or square besides identity."""
    if turn in ("transpose", "rot90", "rot270", "transverse"):
        pixels = pixels.swapaxes(0, 1)
    if turn in ("vflip", "rot180", "rot90", "transverse"):
        pixels = pixels[::-1]
    if turn in ("hflip", "rot180", "rot270", "transverse"):
        pixels = pixels[:, ::-1]
    return pixels
