"""PIXELS: one decode policy, and pictures drawn straight into the batch."""

from featx.images.decoding import (
    MAX_PIXELS,
    DecodeMode,
    Pixels,
    decode,
    decoder_spec,
    image_extensions,
)
from featx.images.drawing import draw, draw_pixels, resized_size

__all__ = [
    "MAX_PIXELS",
    "DecodeMode",
    "Pixels",
    "decode",
    "decoder_spec",
    "draw",
    "draw_pixels",
    "image_extensions",
    "resized_size",
]
