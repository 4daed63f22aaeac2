"""Classification networks of torchvision, with the preprocessing of their weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from featx.backbones.backbone import Backbone
from featx.backbones.fetch import obtain, remote_of
from featx.backbones.taps import Tap
from featx.backbones.weights import Weights, digest_state, load_checked, read_state
from featx.errors import WeightsError, nearest
from featx.preprocess import Preprocess

# Both were converted from TensorFlow: their first layers expect its scaling, which the default
# weights switch on and a network built without them leaves off.
_TRANSFORM_INPUT = ("inception_v3", "googlenet")
_CLASSIFIERS = ("classifier", "fc", "heads", "head")


@cache
def names() -> tuple[str, ...]:
    """Names of torchvision's classification networks."""
    from torchvision import models

    found = models.list_models(module=models)
    return tuple(n for n in found if not n.startswith("quantized"))


def entry_of(name: str, tag: str | None = None) -> Any:
    """Torchvision's own record of some weights; the default ones without a tag."""
    from torchvision import models

    known = models.get_model_weights(name)
    if tag is None:
        return known.DEFAULT
    if tag not in known.__members__:
        raise WeightsError(
            f"torchvision:{name} has no weights {tag!r}{nearest(tag, known.__members__)}; known "
            f"are {', '.join(known.__members__)}"
        )
    return known[tag]


def preprocess_of(entry: Any) -> Preprocess:
    """The value that says what ``entry.transforms()`` does."""
    from torchvision.transforms import InterpolationMode

    transform = entry.transforms()
    interpolation: Any = InterpolationMode(transform.interpolation).value
    crop, resize = transform.crop_size[0], transform.resize_size[0]
    return Preprocess(
        input_size=(crop, crop),
        resize_size=(resize, resize),
        interpolation=interpolation,
        antialias=bool(transform.antialias),
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )


def build(name: str, **options: Any) -> nn.Module:
    """The network without weights, from a fixed seed, with its auxiliary classifiers removed."""
    from torchvision import models

    if name in _TRANSFORM_INPUT:
        options |= {"transform_input": True, "init_weights": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net: nn.Module = models.get_model(name, weights=None, **options)
    return net


def default_tap(net: nn.Module) -> Tap:
    """The last pooling layer, or else the vector that the classifier receives."""
    children = dict(net.named_children())
    kind = type(net).__name__
    if kind == "MaxVit":
        return Tap.at("classifier.0")  # its pooling is the classifier's first part
    if kind == "SqueezeNet":
        return Tap.at("features")  # the classifier is a convolution
    if "avgpool" in children:
        return Tap.at("avgpool")
    return Tap.at(next(n for n in _CLASSIFIERS if n in children), "input")


def load(name: str, weights: str | None = None) -> Backbone:
    """Build a network of torchvision and fill it; see `featx.load_backbone`."""
    entry = entry_of(name)
    net = build(name)
    if weights == "random":
        _drop_aux(net)
        found = Weights("random", "random", digest_state(net.state_dict()))
        return _backbone(name, found, entry, net)
    if weights is not None and weights in type(entry).__members__:
        entry, weights = entry_of(name, weights), None
    path = obtain(remote_of(entry.url)) if weights is None else Path(weights)
    state, notes = read_state(path)
    if any(key.startswith(("AuxLogits.", "aux1.", "aux2.")) for key in state):
        load_checked(net, state, str(path))
        _drop_aux(net)
    else:
        _drop_aux(net)
        load_checked(net, state, str(path))
    tag = entry.name if weights is None else ""
    source = entry.url if weights is None else str(path)
    found = Weights(source, tag, digest_state(net.state_dict()), licence_of(entry), notes)
    return _backbone(name, found, entry, net)


def licence_of(entry: Any) -> str:
    """Licence of torchvision's weights; those of SWAG say their own."""
    return str(entry.meta.get("license", "BSD-3-Clause"))


def _drop_aux(net: Any) -> None:
    if type(net).__name__ in ("Inception3", "GoogLeNet"):
        net.aux_logits = False
        for name in ("AuxLogits", "aux1", "aux2"):
            if hasattr(net, name):
                setattr(net, name, None)


def _backbone(name: str, weights: Weights, entry: Any, net: nn.Module) -> Backbone:
    swin = type(net).__name__ == "SwinTransformer"  # its blocks keep the channels last
    return Backbone(
        f"torchvision:{name}",
        name,
        weights,
        preprocess_of(entry),
        net,
        default_tap(net),
        nhwc=swin,
    )
