"""timm's networks, with the preprocessing of their ``pretrained_cfg``."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from featx.backbones.backbone import Backbone
from featx.backbones.taps import PRE_LOGITS, Tap
from featx.backbones.weights import Weights, digest_state, load_checked, read_state
from featx.errors import WeightsError
from featx.preprocess import Preprocess

_RESIZE = {"center": "crop", "squash": "squash", "border": "pad"}


@cache
def names() -> tuple[str, ...]:
    """Names of timm's networks, without tags."""
    import timm

    return tuple(timm.list_models())


def knows(name: str) -> bool:
    """Whether timm has this network, under its present name or an old one."""
    from timm.models import is_model

    return bool(is_model(name.partition(".")[0]))


def preprocess_of(cfg: dict[str, Any]) -> Preprocess:
    """The value that says what timm's evaluation transform does."""
    import timm.data

    resolve: Any = timm.data.resolve_data_config  # type: ignore[attr-defined]
    data = resolve(pretrained_cfg=cfg)
    channels, *size = data["input_size"]
    mean, std = (tuple(data[k])[:channels] for k in ("mean", "std"))
    return Preprocess.from_crop_pct(
        (size[0], size[1]),
        data["crop_pct"],
        resize=_RESIZE[data["crop_mode"]],
        interpolation=data["interpolation"],
        mean=mean,
        std=std,
    )


def build(name: str, **options: Any) -> Any:
    """The network without weights, from a fixed seed."""
    import timm

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # old names are mapped to new ones
        torch.manual_seed(0)
        return timm.create_model(name, pretrained=False, **options)


def load(name: str, weights: str | None = None) -> Backbone:
    """Build a network of timm and fill it; see `featx.load_backbone`."""
    architecture, _, _tag = name.partition(".")
    net = build(name)
    cfg = net.pretrained_cfg
    if weights == "random":
        found = Weights("random", "random", digest_state(net.state_dict()))
    elif weights is not None:
        state, notes = read_state(Path(weights))
        load_checked(net, state, weights)
        found = Weights(weights, "", digest_state(net.state_dict()), "", notes)
    else:
        raise WeightsError(f"the pretrained weights of timm:{name} are not on this machine")
    return _backbone(architecture, found, cfg, net)


def _backbone(name: str, weights: Weights, cfg: dict[str, Any], net: nn.Module) -> Backbone:
    return Backbone(
        f"timm:{name}",
        name,
        weights,
        preprocess_of(cfg),
        net,
        Tap.at(PRE_LOGITS),
        in_chans=cfg["input_size"][0],
        nhwc=getattr(net, "output_fmt", "NCHW") == "NHWC",
    )
