"""Your own ``nn.Module``: ``file:module.py:factory``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from torch import nn

from featx.backbones import from_timm, from_torchvision
from featx.backbones.recipe import Recipe, check_channels
from featx.backbones.taps import PRE_LOGITS, Tap
from featx.errors import BackboneError, UnknownBackboneError, nearest, words_of
from featx.preprocess import Preprocess

_PREFIX = "file:"


def knows(name: str) -> bool:
    """True if a name is of the form ``file:module.py:factory``."""
    return name.startswith(_PREFIX)


def recipe(name: str) -> Recipe:
    """The network that the factory makes.

    The factory takes no argument. What it returns may carry ``preprocess``, a `Preprocess` or its
    dictionary, or timm's ``pretrained_cfg``; without, the preprocessing is that of most ImageNet
    networks. ``in_chans`` may say how many channels it takes where its first convolution does not.
    """
    path, _, factory = name.removeprefix(_PREFIX).rpartition(":")
    if not path.endswith(".py") or not factory:
        raise UnknownBackboneError(f"{name!r} must have the form file:module.py:factory")
    made = _call(Path(path), factory)
    unused = [made]

    def build(num_classes: int | None = None, in_chans: int | None = None) -> nn.Module:
        if in_chans not in (None, channels):
            raise BackboneError(f"{name} takes {channels} channels, not {in_chans}")
        return unused.pop() if unused else _call(Path(path), factory)

    channels = check_channels(_channels(made))
    return Recipe(
        name,
        f"{type(made).__module__}.{type(made).__qualname__}",
        build,
        _preprocess(made, name),
        default_tap,
        classifiers=("fc", "classifier", "head", "heads"),
        own_weights=f"{path}:{factory}",
        in_chans=channels,
    )


def _call(path: Path, factory: str) -> nn.Module:
    if not path.is_file():
        raise UnknownBackboneError(f"no file {path}, which was to make a network")
    spec = importlib.util.spec_from_file_location(f"featx_backbone_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        make = getattr(module, factory, None)
        if make is None:
            raise UnknownBackboneError(
                f"{path} has no {factory!r}{nearest(factory, list(vars(module)))}"
            )
        net = make()
    except BackboneError:
        raise
    except Exception as error:
        reason = words_of(error)
        raise BackboneError(
            f"{path}:{factory} failed with {type(error).__name__}: {reason}"
        ) from error
    if not isinstance(net, nn.Module):
        raise BackboneError(f"{path}:{factory} gave a {type(net).__name__}, not a torch.nn.Module")
    return net


def _preprocess(net: nn.Module, name: str) -> Preprocess:
    own: Any = getattr(net, "preprocess", None)
    if isinstance(own, Preprocess):
        return own
    if isinstance(own, dict):
        try:
            return Preprocess.from_dict({"views": ["none"]} | own)
        except TypeError as error:
            raise BackboneError(f"preprocess of {name}: {error}") from None
    cfg: Any = getattr(net, "pretrained_cfg", None)
    return from_timm.preprocess_of(cfg) if isinstance(cfg, dict) and cfg else Preprocess()


def _channels(net: nn.Module) -> int:
    """Channels that the network states, else those of its first convolution; colour without one."""
    first = next((m.in_channels for m in net.modules() if isinstance(m, nn.Conv2d)), 3)
    said: Any = getattr(net, "in_chans", None)
    return said if isinstance(said, int) else first


def default_tap(net: nn.Module) -> Tap:
    """Where to read a network that nobody has described.

    timm's and torchvision's as there; else a child called ``avgpool`` or ``global_pool``; else
    what the last linear layer receives; else what the network gives.
    """
    if hasattr(net, "forward_head") and hasattr(net, "forward_features"):
        return Tap.at(PRE_LOGITS)
    if type(net).__module__.startswith("torchvision.models."):
        return from_torchvision.default_tap(net)
    children = dict(net.named_children())
    for name in ("avgpool", "global_pool"):
        if name in children:
            return Tap.at(name)
    linear = [n for n, m in net.named_modules() if isinstance(m, nn.Linear)]
    return Tap.at(linear[-1], "input") if linear else Tap.at("")
