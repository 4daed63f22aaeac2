"""PIXELS: one decode policy, and pictures drawn straight into the batch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from featx.images.decoding import decode
from featx.images.encoding import file_of, is_picture, pixels_of
from featx.images.formats import MAX_PIXELS, image_extensions, missing_extra, open_image
from featx.images.policy import (
    DEFAULT_POLICY,
    DecodeMode,
    DecodePolicy,
    decoder_spec,
    parse_bands,
    policy_of,
)
from featx.images.samples import Pixels

if TYPE_CHECKING:
    from featx.images.drawing import draw, draw_pixels, resized_size

# Drawing needs torch; a process that only decodes is to start without it.
_DRAWING = ("draw", "draw_pixels", "resized_size")

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
    "resized_size",
]


def __getattr__(name: str) -> Any:
    if name not in _DRAWING:
        raise AttributeError(f"module 'featx.images' has no attribute {name!r}")
    value = getattr(import_module("featx.images.drawing"), name)
    globals()[name] = value
    return value
