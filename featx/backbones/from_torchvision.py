"""Classification networks of torchvision, with the preprocessing of their weights."""

from __future__ import annotations

import re
from functools import cache, partial
from typing import Any

from torch import nn

from featx.backbones.fetch import UrlFile
from featx.backbones.recipe import Recipe
from featx.backbones.taps import Tap
from featx.backbones.weights import State
from featx.errors import BackboneError
from featx.preprocess import Preprocess

# Both were converted from TensorFlow: their first layer expects its scaling, which the default
# weights switch on and a network built without them leaves off.
_FROM_TENSORFLOW = ("inception_v3", "googlenet")
_CLASSIFIERS = ("classifier", "fc", "heads", "head")
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
_RENAMED = (  # names in published files that torchvision itself rewrites when it loads them
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(\.mlp)\.linear_2\."), r"\1.3."),
)


@cache
def names() -> tuple[str, ...]:
    """Names of torchvision's classification networks."""
    from torchvision import models

    return tuple(models.list_models(module=models))


def tags(name: str) -> tuple[str, ...]:
    """Names of the weights that torchvision has for a network, the default ones first."""
    from torchvision import models

    known = models.get_model_weights(name)
    return tuple(dict.fromkeys((known.DEFAULT.name, *known.__members__)))


def entry_of(name: str, tag: str | None = None) -> Any:
    """Torchvision's own record of some weights."""
    from torchvision import models

    return models.get_model_weights(name)[tag or tags(name)[0]]


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


def build(
    name: str, image: int, num_classes: int | None = None, in_chans: int | None = None
) -> nn.Module:
    """Build the network without weights and without its auxiliary classifiers."""
    from torchvision import models

    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if name in _FROM_TENSORFLOW:
        options |= {"transform_input": True, "init_weights": True, "aux_logits": False}
    if name.startswith("vit_"):
        options["image_size"] = image
    net: nn.Module = models.get_model(name, weights=None, **options)
    if in_chans not in (None, 3):
        _change_input(net, name, int(in_chans or 3))
    return net


def _change_input(net: nn.Module, name: str, in_chans: int) -> None:
    if name in _FROM_TENSORFLOW:
        raise BackboneError(f"torchvision:{name} takes RGB only; its first layer rescales colours")
    where, old = next((n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d))
    parent, _, last = where.rpartition(".")
    kernel, stride, padding = old.kernel_size, old.stride, old.padding
    new = nn.Conv2d(
        in_chans,
        old.out_channels,
        kernel,  # type: ignore[arg-type]
        stride,  # type: ignore[arg-type]
        padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    setattr(net.get_submodule(parent), last, new)


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


def _up_to_date(state: State, net: object) -> State:
    """Give a file's entries the names and sizes that torchvision's networks have today."""
    for old, new in _RENAMED:
        state = {old.sub(new, name): tensor for name, tensor in state.items()}
    return _resized(state, net) if hasattr(net, "image_size") else state


def _resized(state: State, net: Any) -> State:
    """Resize the position embedding of a vision transformer that was built for another size."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    own, found = net.encoder.pos_embedding.shape, state.get("encoder.pos_embedding")
    if found is None or found.shape == own or found.shape[-1] != own[-1]:
        return state
    return dict(interpolate_embeddings(net.image_size, net.patch_size, dict(state)))


def recipe(name: str, tag: str | None = None) -> Recipe:
    """Torchvision's network, weights and preprocessing.

    Without a tag, those of the default weights: a file is taken to be trained as they were.
    """
    entry = entry_of(name, tag)
    preprocess = preprocess_of(entry)
    return Recipe(
        f"torchvision:{name}",
        name,
        partial(build, name, preprocess.input_size[0]),
        preprocess,
        default_tap,
        (UrlFile(entry.url),),
        entry.name,
        licence_of(entry),
        _CLASSIFIERS,
        _AUXILIARY if name in _FROM_TENSORFLOW else (),
        _up_to_date,
    )


def licence_of(entry: Any) -> str:
    """Licence of torchvision's weights: its own, unless they say another."""
    said = str(entry.meta.get("license", "BSD-3-Clause"))
    return "CC-BY-NC-4.0" if "SWAG" in said else said
