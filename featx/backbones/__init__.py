"""WHO: every pretrained network, any of its layers, with the preprocessing that belongs to it."""

from __future__ import annotations

from featx.backbones.backbone import Backbone, LayerRow
from featx.backbones.listing import BackboneInfo, list_backbones
from featx.backbones.load import load_backbone
from featx.backbones.reader import TapReader
from featx.backbones.taps import POOLS, Tap
from featx.backbones.weights import Weights

__all__ = [
    "POOLS",
    "Backbone",
    "BackboneInfo",
    "LayerRow",
    "Tap",
    "TapReader",
    "Weights",
    "list_backbones",
    "load_backbone",
]
