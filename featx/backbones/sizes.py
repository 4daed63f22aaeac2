"""Networks of a fixed input size, made to take another."""

from __future__ import annotations

import copy
import warnings
from typing import Any

from torch import nn

from featx.errors import BackboneError


def net_for_size(net: nn.Module, size: tuple[int, int]) -> nn.Module:
    """The network itself, or a copy of it whose position embedding is resized to `size`.

    Convolutional networks take any size as they are; timm's transformers know how to change;
    torchvision's vision transformer is changed as torchvision changes its own checkpoints.
    """
    if callable(getattr(net, "set_input_size", None)):
        other: Any = copy.deepcopy(net)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of speed only
                other.set_input_size(img_size=size)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise BackboneError(
                f"the network cannot be changed to {size[0]}x{size[1]} pixels: {error}"
            ) from error
        return other  # type: ignore[no-any-return]
    if type(net).__name__ == "VisionTransformer" and hasattr(net, "image_size"):
        return _resized_vit(copy.deepcopy(net), size) if size[0] == size[1] else net
    return net


def _resized_vit(net: Any, size: tuple[int, int]) -> nn.Module:
    from torchvision.models.vision_transformer import interpolate_embeddings

    name = "encoder.pos_embedding"
    state = {name: net.encoder.pos_embedding.data}
    resized = interpolate_embeddings(size[0], net.patch_size, state)[name]
    net.encoder.pos_embedding = nn.Parameter(resized, requires_grad=False)
    net.image_size, net.seq_length = size[0], resized.shape[1]
    return net  # type: ignore[no-any-return]
