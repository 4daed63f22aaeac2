"""PIXELS: one decode policy, and pictures drawn straight into the batch."""

from __future__ import annotations

from featx.images.decoding import decode
from featx.images.drawing import draw, draw_pixels, resize_box, resized_size
from featx.images.encoding import file_of, is_picture, pixels_of
from featx.images.formats import MAX_PIXELS, image_extensions, missing_extra, open_image
from featx.images.policy import (
    DEFAULT_POLICY,
    DecodeMode,
    DecodePolicy,
    Pixels,
    decoder_spec,
    parse_bands,
    policy_of,
)

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
    "file_of",
    "image_extensions",
    "is_picture",
    "missing_extra",
    "open_image",
    "parse_bands",
    "pixels_of",
    "policy_of",
    "resize_box",
    "resized_size",
]
