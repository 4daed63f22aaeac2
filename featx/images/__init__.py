"""PIXELS: one decode policy, and pictures drawn straight into the batch."""

from featx.images.decoding import DecodeMode, Pixels, decode, decoder_spec
from featx.images.drawing import draw, draw_pixels, resized_size
from featx.images.formats import MAX_PIXELS, image_extensions, open_image

__all__ = [
    "MAX_PIXELS",
    "DecodeMode",
    "Pixels",
    "decode",
    "decoder_spec",
    "draw",
    "draw_pixels",
    "image_extensions",
    "open_image",
    "resized_size",
]
