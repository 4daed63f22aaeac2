"""WHO: every pretrained network, any of its layers, with the preprocessing that belongs to it."""

from __future__ import annotations

from featx.backbones.backbone import Backbone, LayerRow
from featx.backbones.load import load_backbone
from featx.backbones.reader import TapReader
from featx.backbones.taps import POOLS, Tap
from featx.backbones.weights import Weights

__all__ = ["POOLS", "Backbone", "LayerRow", "Tap", "TapReader", "Weights", "load_backbone"]
