"""PIXELS: one decode policy, and pictures drawn straight into the batch."""

from featx.images.decoding import decode
from featx.images.drawing import draw, draw_pixels, resized_size
from featx.images.formats import MAX_PIXELS, image_extensions, open_image
from featx.images.policy import (
    DEFAULT_POLICY,
    DecodeMode,
    DecodePolicy,
    decoder_spec,
    parse_bands,
    policy_of,
)
from featx.images.samples import Pixels

__all__ = [
    "DEFAULT_POLICY",
    "MAX_PIXELS",
    "DecodeMode",
    "DecodePolicy",
    "Pixels",
    "decode",
    "decoder_spec",
    "draw",
    "draw_pixels",
    "image_extensions",
    "open_image",
    "parse_bands",
    "policy_of",
    "resized_size",
]
